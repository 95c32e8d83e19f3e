"""What storage refused, in one line for a user, without credentials."""

from collections.abc import Iterator
from contextlib import contextmanager


class StorageError(OSError, ValueError):
    """Storage said no; the message is one line for a user and holds no credentials."""


class ObjectMissing(StorageError, FileNotFoundError):
    """There is nothing at the URI."""


class ObjectExists(StorageError, FileExistsError):
    """An exclusive write found something at the URI."""


class ObjectChanged(StorageError):
    """An object is not the one that was planned: its etag (or size, or time) differs."""


class StorageBusy(StorageError):
    """Storage did not answer, or asks to wait: trying again may mend it."""


def codes_of(error: BaseException | None) -> set[str]:
    """Names and S3 error codes of an exception and of its causes."""
    codes: set[str] = set()
    while error is not None:
        codes.add(type(error).__name__)
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            codes.add(str(response.get("Error", {}).get("Code", "")))
        error = error.__cause__ or error.__context__
    return codes


_ADVICE = {
    "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE": "NoCredentialsError PartialCredentialsError "
    "CredentialRetrievalError",
    "the AWS profile named by AWS_PROFILE does not exist here": "ProfileNotFound",
    "the credentials have expired, or this machine's clock is wrong": "ExpiredToken TokenRefreshRequired RequestTimeTooSkewed",
    "the storage does not accept these credentials: check the AWS variables": "InvalidAccessKeyId SignatureDoesNotMatch InvalidToken "
    "InvalidSecurity",
    "there is no such bucket: check the name and AWS_ENDPOINT_URL": "NoSuchBucket InvalidBucketName",
    "the endpoint cannot be reached: check AWS_ENDPOINT_URL and the network": "EndpointConnectionError ConnectTimeoutError "
    "ConnectionClosedError ProxyConnectionError SSLError",
    "access denied: these credentials (or this user) may not do this here": "AccessDenied AllAccessDisabled PermissionError 403",
    "the storage did not answer in time: try again": "ReadTimeoutError TimeoutError FSTimeoutError RequestTimeout",
    "the storage asks to slow down: try again with fewer workers": "SlowDown ServiceUnavailable 503",
}
"""What to tell a user: advice -> names of exceptions and S3 error codes."""

_BUSY = (
    "SlowDown ServiceUnavailable 503 InternalError 500 ReadTimeoutError TimeoutError FSTimeoutError RequestTimeout "
    "EndpointConnectionError ConnectTimeoutError ConnectionClosedError ConnectionResetError IncompleteRead NotWhole"
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
    """Turns what the storage's libraries raise into a StorageError of one line."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except StorageError:
        raise
    except FileExistsError as error:
        raise ObjectExists(f"{uri} exists already") from error
    except FileNotFoundError as error:
        raise ObjectMissing(f"{uri} does not exist") from error
    except (OSError, BotoCoreError, ClientError, TimeoutError) as error:
        if codes_of(error) & {"NoSuchKey", "NotFound", "404"}:
            raise ObjectMissing(f"{uri} does not exist") from error
        busy = codes_of(error) & set(_BUSY.split())
        raise (StorageBusy if busy else StorageError)(explain(error, uri)) from error
