"""Image and Zerone on a GPU: records a second by batch size, beside what the memory traffic alone would allow.

    python -m tests.bench.gpu [cuda|cpu]

The floor is the bytes of a waveform read and of an image and a vector written, over the bandwidth of a large copy measured here.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch

from vibray.features.cwt_image import CwtImage, CwtImageConfig
from vibray.features.seed_image import SeedImage, SeedImageConfig
from vibray.features.zerone import Zerone, ZeroneConfig

RATE_HZ, NUM_SAMPLES, ROUNDS = 8192.0, 8192, 5
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


def main(device: str) -> None:
    numbers = torch.empty((1 << 30 if device == "cuda" else 1 << 26) // 4, device=device)
    target = torch.empty_like(numbers)
    bandwidth = 2 * numbers.nbytes / seconds(lambda: target.copy_(numbers), device)
    del numbers, target
    print(f"{device}: a copy moves {bandwidth / 1e9:,.0f} GB/s (bytes read and written)")
    zerone = Zerone(ZeroneConfig())
    for name, image in (("default image", CwtImage(CwtImageConfig())), ("seed image", SeedImage(SeedImageConfig()))):
        for num_records in BATCHES[device]:
            x = torch.randn(num_records, NUM_SAMPLES, device=device)
            made = image(x, RATE_HZ), zerone(x, RATE_HZ)
            # of the seed image's three equal channels one is in memory
            written = sum(tensor.untyped_storage().nbytes() for tensor in made)
            took = {
                what: seconds(call, device)
                for what, call in {"image": lambda x=x: image(x, RATE_HZ), "zerone": lambda x=x: zerone(x, RATE_HZ)}.items()
            }
            both, floor = sum(took.values()), (x.nbytes + written) / bandwidth
            print(
                f"{name} + Zerone, batch {num_records:4d}: {num_records / both:12,.0f} records/s "
                f"({1e6 * took['image'] / num_records:.2f} + {1e6 * took['zerone'] / num_records:.2f} us a record), "
                f"{both / floor:.1f} times the floor of {1e6 * floor / num_records:.3f} us"
            )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cuda")
