"""Image and Zerone on a GPU: records a second by batch size, beside what the memory traffic alone would allow.

    python -m tests.bench.gpu [cuda|cpu]
    python -m tests.bench.gpu cuda runs      and whole runs, scored and trained

The floor is the bytes of a waveform read and of an image and a vector written, over the bandwidth of a large copy measured here.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from tests.bench.scoring import FACTS, fleet, make_run
from vibray import recipes
from vibray.features.cwt_image import CwtImage, CwtImageConfig
from vibray.features.seed_image import SeedImage, SeedImageConfig
from vibray.features.zerone import Zerone, ZeroneConfig
from vibray.recipes.building import build_deep, build_feature
from vibray.train.batches import Batches, TrainingSet
from vibray.train.fit import EpochMetrics, fit
from vibray.train.reduce import World

RATE_HZ, NUM_SAMPLES, ROUNDS = 8192.0, 8192, 5
NUM_WHOLE = {"cuda": 4096, "cpu": 512}
BATCHES = {"cuda": (256, 512, 1024, 2048, 4096), "cpu": (8, 16)}


def seconds(call: Callable[[], object], device: str) -> float:
    """Median of a few rounds, after one that is thrown away."""
    times = []
    for _ in range(ROUNDS + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def copy_bandwidth(device: str) -> float:
    """Bytes a second, read and written, of one large copy."""
    numbers = torch.empty((1 << 30 if device == "cuda" else 1 << 26) // 4, device=device)
    target = torch.empty_like(numbers)
    return 2 * numbers.nbytes / seconds(lambda: target.copy_(numbers), device)


def line(name: str, image: CwtImage | SeedImage, num_records: int, bandwidth: float, device: str) -> str:
    """What one batch size reaches."""
    zerone = Zerone(ZeroneConfig())
    x = torch.randn(num_records, NUM_SAMPLES, device=device)
    # of the seed image's three equal channels one is in memory
    written = sum(made.untyped_storage().nbytes() for made in (image(x, RATE_HZ), zerone(x, RATE_HZ)))
    of_image, of_zerone = seconds(lambda: image(x, RATE_HZ), device), seconds(lambda: zerone(x, RATE_HZ), device)
    both, floor = of_image + of_zerone, (x.nbytes + written) / bandwidth
    return (
        f"{name} + Zerone, batch {num_records:4d}: {num_records / both:12,.0f} records/s "
        f"({1e6 * of_image / num_records:.2f} + {1e6 * of_zerone / num_records:.2f} us a record), "
        f"{both / floor:.1f} times the floor of {1e6 * floor / num_records:.3f} us"
    )


def whole(device: str) -> None:
    """Records a second that a run scores, waveforms in memory to scores, and that a net learns from, an epoch after its images are made."""
    waveforms, sensors = fleet(NUM_WHOLE[device])
    for name, recipe in (("fused", recipes.fused()), ("cwt-svdd", recipes.cwt_svdd()), ("ensemble", recipes.ensemble())):
        run = make_run(recipe, waveforms[:400], sensors[:400]).to(device)
        taken = seconds(lambda run=run: run.score(waveforms, FACTS.sample_rate_hz, sensors), device)
        print(f"{name}: {len(waveforms) / taken:,.0f} records/s scored", flush=True)
    recipe = recipes.plain_svdd()  # the one net that needs neither labels nor injected faults
    images = build_feature(recipe.feature, FACTS.mains_hz)(torch.from_numpy(waveforms[:512]).to(device), FACTS.sample_rate_hz)
    net = build_deep(recipe.detector, tuple(images.shape[1:])).to(device)
    rows = TrainingSet(lambda index: images[torch.from_numpy(index).to(device)], np.arange(len(images)))
    for precision in ("float32", "bf16"):
        optim = replace(recipe.optim, epochs=3, precision=precision)
        told = partial(_print_epoch, f"plain-svdd, {precision}")
        fit(net, Batches(rows, optim.batch_size, 0, World()), optim, told)


def _print_epoch(what: str, epoch: int, metrics: EpochMetrics) -> None:
    print(f"{what}, epoch {epoch}: {metrics.records_per_s:,.0f} records/s trained on", flush=True)


def main(device: str) -> None:
    bandwidth = copy_bandwidth(device)
    print(f"{device}: a copy moves {bandwidth / 1e9:,.0f} GB/s (bytes read and written)")
    for name, image in (("default image", CwtImage(CwtImageConfig())), ("seed image", SeedImage(SeedImageConfig()))):
        for num_records in BATCHES[device]:
            print(line(name, image, num_records, bandwidth, device), flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cuda")
    if "runs" in sys.argv[2:]:
        whole(sys.argv[1])
