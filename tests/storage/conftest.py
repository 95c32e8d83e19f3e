"""Folders on the local disk and on the S3 endpoint, and the facts of tiny records."""

import pytest

from vibray.storage import objects
from vibray.storage.corpus import CorpusFacts

NUM_SAMPLES = 32


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path):
    """A folder's URI: the same tests hold on both."""
    return objects.join(str(tmp_path), "a") if request.param == "local" else objects.join(request.getfixturevalue("bucket"), "a")


@pytest.fixture
def facts():
    return CorpusFacts(sample_rate_hz=1000.0, num_samples=NUM_SAMPLES)
