"""What storage refused, in one line for a user, without credentials."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from vibray.config import UserError


class StorageError(OSError, UserError):
    """Storage said no; the message is one line for a user and holds no credentials."""


class ObjectMissing(StorageError, FileNotFoundError):
    """There is nothing at the URI."""


class ObjectExists(StorageError, FileExistsError):
    """An exclusive write found something at the URI."""


class ObjectChanged(StorageError):
    """An object is not the one that was planned: its etag (or size, or time) differs."""


class HalfWritten(UserError):
    """A JSON file that was not written to its end: what wrote it was killed."""


class StorageBusy(StorageError):
    """Storage did not answer, or asks to wait: trying again may mend it."""


def codes_of(error: BaseException | None) -> set[str]:
    """Names, S3 error codes and errno names (ENOSPC) of an exception and of its causes."""
    codes: set[str] = set()
    while error is not None:
        codes.add(type(error).__name__)
        if isinstance(error, OSError):
            codes.add(errno.errorcode.get(error.errno or 0, ""))
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            codes.add(str(response.get("Error", {}).get("Code", "")))
        error = error.__cause__ or error.__context__
    return codes


_ADVICE = {
    "there is no room left: free some, raise the quota, or choose another place": "ENOSPC EDQUOT QuotaExceeded XMinioStorageFull "
    "XMinioAdminBucketQuotaExceeded InsufficientStorage 507",
    "this file system is read-only: choose another folder": "EROFS",
    "a name is longer than the storage takes: choose a shorter one": "ENAMETOOLONG KeyTooLongError",
    "a folder stands where a file is meant: name the file, or another place": "EISDIR",
    "a file stands where a folder is meant: name a folder, or another place": "ENOTDIR",
    "symbolic links that lead to one another: mend them": "ELOOP",
    "a file larger than this file system or user may have: choose another folder": "EFBIG EntityTooLarge",
    "too many open files: raise the limit (ulimit -n)": "EMFILE ENFILE",
    "the disk cannot read or write it: look at the disk, then choose another folder": "EIO",
    "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE": "NoCredentialsError PartialCredentialsError "
    "CredentialRetrievalError",
    "the AWS profile named by AWS_PROFILE does not exist here": "ProfileNotFound",
    "there is no single sign-on session, or it has expired: aws sso login": "SSOTokenLoadError UnauthorizedSSOTokenError "
    "TokenRetrievalError",
    "the credentials have expired, or this machine's clock is wrong": "ExpiredToken TokenRefreshRequired RequestTimeTooSkewed",
    "the storage does not accept these credentials: check the AWS variables": "InvalidAccessKeyId SignatureDoesNotMatch InvalidToken "
    "InvalidSecurity",
    "there is no such bucket: check the name and AWS_ENDPOINT_URL": "NoSuchBucket InvalidBucketName",
    "the bucket lies in another region: set AWS_DEFAULT_REGION": "PermanentRedirect 301 AuthorizationHeaderMalformed "
    "IllegalLocationConstraintException",
    "the object is in cold storage: restore it first": "InvalidObjectState",
    "no name of a bucket, or no key below it: write s3://bucket/folder": "ParamValidationError",
    "the endpoint is no address: check AWS_ENDPOINT_URL": "EndpointResolutionError",
    "the proxy cannot be reached: check HTTPS_PROXY and HTTP_PROXY": "ProxyConnectionError",
    "the endpoint's certificate is not trusted: check AWS_ENDPOINT_URL and AWS_CA_BUNDLE": "SSLError",
    "the endpoint cannot be reached: check AWS_ENDPOINT_URL and the network": "EndpointConnectionError ConnectTimeoutError "
    "ConnectionClosedError",
    "the network disk did not answer: try again": "ESTALE EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH",
    "access denied: these credentials (or this user) may not do this here": "AccessDenied AllAccessDisabled PermissionError 403",
    "the storage did not answer in time: try again": "ReadTimeoutError TimeoutError FSTimeoutError RequestTimeout 504",
    "the storage asks to slow down: try again with fewer workers": "SlowDown ServiceUnavailable 503 Throttling ThrottlingException "
    "TooManyRequests TooManyRequestsException RequestLimitExceeded BandwidthLimitExceeded 429",
}
"""What to tell a user: advice -> names of exceptions, S3 error codes and errno names. The first that fits is told."""

_BUSY = (
    "SlowDown ServiceUnavailable 503 InternalError 500 502 504 RequestTimeout OperationAborted ConditionalRequestConflict "
    "Throttling ThrottlingException TooManyRequests TooManyRequestsException RequestLimitExceeded BandwidthLimitExceeded 429 "
    "ReadTimeoutError TimeoutError FSTimeoutError EndpointConnectionError ConnectTimeoutError ConnectionClosedError "
    "ProxyConnectionError ConnectionResetError IncompleteRead NotWhole ResponseParserError "
    "BadDigest IncompleteBody XAmzContentSHA256Mismatch ESTALE ETIMEDOUT EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH"
)
"""Names of what may pass by itself."""


def explain(error: BaseException, uri: str) -> str:
    """One line for a user about a storage exception, without credentials."""
    codes = codes_of(error)
    for advice, names in _ADVICE.items():
        if codes & set(names.split()):
            return f"{uri}: {advice}"
    return f"{uri}: {' '.join(str(error).split())[:300] or type(error).__name__}"


@contextmanager
def storage_errors(uri: str) -> Iterator[None]:
    """Turns what the disk and the storage's libraries raise into a StorageError of one line. Raises UserError as it is."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # by its name, because its module takes .1 s to import, of which a local job would have nothing
        if not isinstance(error, OSError | BotoCoreError | ClientError) and type(error).__name__ != "ResponseParserError":
            raise
        if isinstance(error, FileExistsError):
            raise ObjectExists(f"{uri} exists already") from error
        codes = codes_of(error)
        # a FileNotFoundError from S3 speaks of a file on this machine, a token or a certificate, unless the store's answer is its cause
        if codes & {"NoSuchKey", "NotFound", "404"} if uri.startswith("s3://") else isinstance(error, FileNotFoundError):
            raise ObjectMissing(f"{uri} does not exist") from error
        raise (StorageBusy if codes & set(_BUSY.split()) else StorageError)(explain(error, uri)) from error
