"""S3 in the few requests that vibray makes, each tried again until its answer is whole.

botocore repeats a request that was refused, reset or not answered in time. It does not repeat one whose answer breaks off, and nobody
downstream could tell that from a shorter object: here every byte asked for must arrive, and every byte sent must be the one stored.
"""

import base64
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from mmap import mmap
from typing import Any, TypeVar
from urllib.parse import urlsplit

from vibray.config import UserError
from vibray.storage import tally
from vibray.storage.errors import ObjectChanged, ObjectExists, codes_of

NUM_ATTEMPTS = 8
"""Of a request by botocore, and of an answer that broke off here: one in twenty going wrong, eight in a row are one in 25 billion."""

READ_TIMEOUT_S = 30.0
LONGEST_WAIT_S = 10.0

CHUNK = 32 << 20
"""An object above twice this is uploaded in pieces of it."""

CONFIG: dict[str, Any] = {
    "connect_timeout": 10,
    "max_pool_connections": 32,
    # the newer default checksums break ranges on several S3 servers that are not AWS
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}

BROKEN_OFF = {
    *("NotWhole", "ResponseParserError", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"),
    *("ConditionalRequestConflict", "NoSuchUpload"),
}
"""Exceptions and S3 error codes after which the same call may well succeed. NoSuchUpload: another driver took the upload for a leftover."""

ANSWER = TypeVar("ANSWER")

_making = threading.Lock()


class NotWhole(OSError):
    """Fewer bytes arrived, or were stored, than were asked for or sent."""


def client() -> Any:
    """This process's botocore client, for the AWS variables as they stand now; threads may share it.

    Raises UserError for an endpoint that is no address, or holds a user and a password: botocore's errors show it.
    """
    from botocore.exceptions import BotoCoreError

    settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    try:
        with _making:
            made = _client(os.getpid(), settings, NUM_ATTEMPTS, READ_TIMEOUT_S)
        endpoint = urlsplit(made.meta.endpoint_url)
    except BotoCoreError:
        raise
    except ValueError as error:  # its text would show the endpoint, which may hold a password
        told = str(error).removeprefix("Invalid endpoint: ")
        lacks = "" if told == str(error) or "://" in told else "http:// (or https://) is missing in front of it: "
        raise UserError(f"{_endpoint_setting()} is no address: {lacks}write https://host or http://host:port") from None
    if "@" in endpoint.netloc:
        raise UserError(f"{_endpoint_setting()} holds a user or a password: credentials come from elsewhere")
    return made


def _endpoint_setting() -> str:
    """What names the endpoint, in botocore's order."""
    named = (name for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if os.environ.get(name))
    return next(named, "endpoint_url of the AWS profile")


@lru_cache(maxsize=4)
def _client(pid: int, settings: tuple[tuple[str, str], ...], num_attempts: int, read_timeout_s: float) -> Any:
    import botocore.session
    from botocore.config import Config

    config = Config(**CONFIG, retries={"mode": "standard", "total_max_attempts": num_attempts}, read_timeout=read_timeout_s)
    session = botocore.session.Session()
    session.register("before-send.s3", tally.on_attempt)
    return session.create_client("s3", config=config)


def again(call: Callable[[], ANSWER]) -> ANSWER:
    """What `call` returns, tried again where its answer broke off, after waits that grow and differ between workers."""
    for attempt in range(NUM_ATTEMPTS):
        try:
            return call()
        except Exception as error:
            if not codes_of(error) & BROKEN_OFF or attempt == NUM_ATTEMPTS - 1:
                raise
        tally.add("retries")
        time.sleep(random.random() * min(0.1 * 2**attempt, LONGEST_WAIT_S))
    raise AssertionError("the loop returns or raises")


def pages(prefix_of: tuple[str, str]) -> Iterator[list[dict[str, Any]]]:
    """The objects below (bucket, prefix), a thousand at a time, in key order."""
    bucket, prefix = prefix_of
    return (page.get("Contents", []) for page in _listed(Bucket=bucket, Prefix=prefix))


def folders(bucket: str, prefix: str) -> list[str]:
    """Names of what lies right below a prefix (which ends in a slash) and holds objects, sorted."""
    found = (facts for page in _listed(Bucket=bucket, Prefix=prefix, Delimiter="/") for facts in page.get("CommonPrefixes", []))
    return sorted(facts["Prefix"][len(prefix) : -1] for facts in found)


def _listed(**asked: str) -> Iterator[dict[str, Any]]:
    more: dict[str, str] = {}
    while True:
        page = again(lambda more=more: client().list_objects_v2(**asked, **more))
        yield page
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def head(bucket: str, key: str) -> tuple[int, str]:
    """Size and etag."""
    facts = again(lambda: client().head_object(Bucket=bucket, Key=key))
    return int(facts["ContentLength"]), facts["ETag"].strip('"')


def get_range(bucket: str, key: str, start: int, stop: int, etag: str) -> bytes:
    """Bytes [start, stop) of the object of this etag. Raises ObjectChanged where it is another one by now."""

    def once() -> bytes:
        try:
            answer = client().get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}", IfMatch=f'"{etag}"')
        except Exception as error:
            # an object that became shorter than the range is another one, too
            if codes_of(error) & {"PreconditionFailed", "412", "InvalidRange", "416"}:
                raise ObjectChanged(_changed(bucket, key)) from error
            raise
        data = _body(answer)
        if answer["ETag"].strip('"') != etag:  # a server without If-Match
            raise ObjectChanged(_changed(bucket, key))
        if len(data) != stop - start:
            raise NotWhole(f"{len(data)} of {stop - start} bytes arrived")
        return data

    return again(once)


def _changed(bucket: str, key: str) -> str:
    return f"s3://{bucket}/{key} changed while it was read, or since it was planned: start in a new folder once it is at rest"


def get(bucket: str, key: str) -> bytes:
    """The whole object."""

    def once() -> bytes:
        answer = client().get_object(Bucket=bucket, Key=key)
        data = _body(answer)
        _check_whole(bucket, key, data, answer["ETag"])
        return data

    return again(once)


def _body(answer: dict[str, Any]) -> bytes:
    from botocore.exceptions import BotoCoreError

    body = answer["Body"]
    try:
        return body.read()
    except (BotoCoreError, OSError) as error:
        raise NotWhole(f"the answer broke off: {error}") from error
    finally:
        body.close()


def _check_whole(bucket: str, key: str, data: bytes | mmap, etag: str) -> None:
    """Raises NotWhole. An etag is the object's MD5, unless it was encrypted or uploaded in pieces: then its size must do."""
    if etag.strip('"') != hashlib.md5(data, usedforsecurity=False).hexdigest() and head(bucket, key)[0] != len(data):
        raise NotWhole(f"{len(data)} bytes on this side, {head(bucket, key)[0]} on the other")


def put(bucket: str, key: str, data: bytes | mmap, exclusive: bool) -> None:
    """Stores an object, whole or not at all; `exclusive` raises ObjectExists where there is another one."""
    condition = {"IfNoneMatch": "*"} if exclusive else {}

    def once() -> None:
        try:
            if len(data) > 2 * CHUNK:
                etag = _put_pieces(bucket, key, data, condition)
            else:
                etag = client().put_object(Bucket=bucket, Key=key, Body=data, ContentMD5=_md5(data), **condition)["ETag"]
        except Exception as error:
            if not (exclusive and codes_of(error) & {"PreconditionFailed", "412"}):
                raise
            # the answer to our own first try may have been lost on its way
            if get(bucket, key) != bytes(data):
                raise ObjectExists(f"s3://{bucket}/{key} exists already") from error
            return
        condition.clear()  # from here on the object is ours
        _check_whole(bucket, key, data, etag)

    again(once)


def _put_pieces(bucket: str, key: str, data: bytes | mmap, condition: dict[str, str]) -> str:
    upload = client().create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    here = {"Bucket": bucket, "Key": key, "UploadId": upload}
    try:
        parts = []
        for number, start in enumerate(range(0, len(data), CHUNK), 1):
            piece = data[start : start + CHUNK]
            answer = client().upload_part(**here, PartNumber=number, Body=piece, ContentMD5=_md5(piece))
            parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        return client().complete_multipart_upload(**here, MultipartUpload={"Parts": parts}, **condition)["ETag"]
    except BaseException:
        abort(bucket, key, upload)
        raise


def _md5(data: bytes | mmap) -> str:
    """The header by which a server refuses a body that is not the one sent."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def abort(bucket: str, key: str, upload: str) -> None:
    """Ends an upload in pieces, also one that is ended already."""
    try:
        client().abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
    except Exception as error:
        if not codes_of(error) & {"NoSuchUpload", "404"}:
            raise


def abort_all(bucket: str, prefix: str) -> int:
    """Ends the uploads in pieces that are open below a prefix; returns how many."""
    count, more = 0, {}
    while True:
        page = again(lambda more=more: client().list_multipart_uploads(Bucket=bucket, Prefix=prefix, **more))
        for upload in page.get("Uploads", []):
            abort(bucket, upload["Key"], upload["UploadId"])
            count += 1
        if not page.get("IsTruncated"):
            return count
        more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def delete(bucket: str, key: str) -> None:
    """Removes an object, also one that is not there."""
    again(lambda: client().delete_object(Bucket=bucket, Key=key))
