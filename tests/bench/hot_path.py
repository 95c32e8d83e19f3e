"""The hot path beside the original plan's own code: CPU time a record on one core, medians of interleaved rounds in one process.

    OMP_NUM_THREADS=1 python -m tests.bench.hot_path        images, vectors, parsing
    OMP_NUM_THREADS=1 python -m tests.bench.line            shards to features parts, end to end in Ray

Nothing here asserts a time. The first line of a row is ours, those below it are the baselines and how many times longer they took.
"""

import time

import torch

from tests.bench import images, parsing, vectors
from tests.bench.timing import print_rows
from vibray.features.cwt_image import CwtImage, CwtImageConfig
from vibray.features.seed_image import SeedImage, SeedImageConfig
from vibray.features.zerone import Zerone, ZeroneConfig


def print_start_up() -> None:
    """What a worker pays once: the features' tables."""
    x = torch.randn(1, 8192)
    for name, feature in (
        ("default image", CwtImage(CwtImageConfig())),
        ("seed image", SeedImage(SeedImageConfig())),
        ("Zerone", Zerone(ZeroneConfig())),
    ):
        started = time.perf_counter()
        feature(x, 8192.0)
        first = time.perf_counter() - started
        started = time.perf_counter()
        feature(x, 8192.0)
        print(f"{name}: first record {1e3 * first:.0f} ms, second {1e3 * (time.perf_counter() - started):.0f} ms")


if __name__ == "__main__":
    print_start_up()
    print_rows([*images.rows(), *vectors.rows(), *parsing.rows()])
