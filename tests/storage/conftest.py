"""An S3 endpoint over loopback HTTP, and folders on it and on the local disk."""

import logging
from itertools import count

import pytest

from vibray.storage import objects
from vibray.storage.records import CorpusFacts

NUM_SAMPLES = 32
BUCKETS = count()


@pytest.fixture(scope="session")
def endpoint():
    server_module = pytest.importorskip("moto.server", reason="moto[server] is not installed (extra [test])")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint, monkeypatch):
    """An s3:// URI of a bucket of its own, the AWS variables being set for it."""
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "an-access-key",
        "AWS_SECRET_ACCESS_KEY": "a-secret-that-nobody-may-print",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{next(BUCKETS)}"
    objects._s3().call_s3("create_bucket", Bucket=name)
    return f"s3://{name}"


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path):
    """A folder's URI: the same tests hold on both."""
    return objects.join(str(tmp_path), "a") if request.param == "local" else objects.join(request.getfixturevalue("bucket"), "a")


@pytest.fixture
def facts():
    return CorpusFacts(sample_rate_hz=1000.0, num_samples=NUM_SAMPLES)
