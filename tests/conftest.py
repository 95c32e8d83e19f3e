"""What several rooms' tests share: one local Ray, an S3 endpoint over loopback HTTP, the real gearbox records."""

import logging
import os
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from vibray.storage import s3

BUCKETS = count()
NUM_PROCESSES = 2


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Plain `pytest` takes two processes where pytest-xdist is there. A file, a test, `-m slow` or --pdb takes this one, as -n 0 does.

    Not in addopts: there `-n 2` would make `-p no:xdist` an error, and a single test wait for two processes to begin.
    """
    option = config.option
    everything = config.args_source is config.ArgsSource.TESTPATHS and "not slow" in option.markexpr
    undecided = getattr(option, "numprocesses", 0) is None and option.dist == "no" and not option.tx and not hasattr(config, "workerinput")
    if everything and undecided and not (option.usepdb or option.collectonly):
        option.numprocesses = NUM_PROCESSES


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Unless --dist asks for another."""
    if config.option.dist != "load":
        return None
    from tests.schedule import ByFile

    config.option.loadscopereorder = False  # as collected, not by how many tests a file has
    return ByFile(config, log)


@pytest.fixture(scope="session")
def gfd() -> Path:
    """The folder of real gearbox records below the one that VIBRAY_CORPORA names."""
    folder = Path(os.environ.get("VIBRAY_CORPORA", ""), "gfd").absolute()
    if not os.environ.get("VIBRAY_CORPORA") or not (folder / "unlabelled").is_dir():
        pytest.skip("VIBRAY_CORPORA names no folder with gfd/, the gearbox records (tests/README.md)")
    return folder


@pytest.fixture(scope="session")
def local_ray():
    """One local Ray for the whole session."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=400 << 20,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()


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
    s3.client().create_bucket(Bucket=name)
    return f"s3://{name}"
