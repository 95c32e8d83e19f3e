"""Images against pywt.cwt and what the original plan does with it, one record at a time."""

import numpy as np
import pywt
import scipy.signal
import torch

from tests.bench.timing import Route, Row
from tests.reference.cwt import bilinear
from tests.reference.waveforms import kinds
from vibray.features.cwt_image import CwtImage, CwtImageConfig
from vibray.features.hetero_image import HeteroImage, HeteroImageConfig
from vibray.features.seed_image import SeedImage, SeedImageConfig

RATE_HZ = 8192.0
NUM_RECORDS = 16
SCALES = np.arange(1, 129)


def planned_image(x: np.ndarray) -> np.ndarray:
    """What the plan does for an image, in the precision of x: z-score, pywt.cwt(conv), bilinear resize, min-max."""
    z = (x - x.mean()) / (x.std() + x.dtype.type(1e-8))
    coefficients, _ = pywt.cwt(z, SCALES, "morl", sampling_period=1 / RATE_HZ)
    image = bilinear(np.abs(coefficients), 224, 224)
    return (image - image.min()) / (image.max() - image.min() + 1e-8)


def planned_hetero(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The plan's image and a log spectrogram."""
    _, _, spectrum = scipy.signal.stft(x, RATE_HZ, "hann", 256, 128)
    return planned_image(x), np.log(np.abs(spectrum) + 1e-12)


def rows() -> list[Row]:
    x = np.stack([kinds(seed=seed)["random"] for seed in range(NUM_RECORDS)])
    single, double, batch = x[0], x[0].astype(np.float64), torch.from_numpy(x)
    f32 = Route("pywt.cwt float32 + resize", lambda: planned_image(single), 1)
    f64 = Route("pywt.cwt float64 + resize", lambda: planned_image(double), 1)
    hetero_f32 = Route("pywt.cwt float32 + resize + scipy.signal.stft", lambda: planned_hetero(single), 1)

    def ours(feature: SeedImage | CwtImage | HeteroImage) -> Route:
        return Route("ours", lambda: feature(batch, RATE_HZ), NUM_RECORDS)

    return [
        Row("seed image", (f32, f64), ours(SeedImage(SeedImageConfig())), ">= 35x, of float64 >= 60x"),
        Row("seed image, fast", (f32, f64), ours(SeedImage(SeedImageConfig(fast=True))), ">= 44x, of float64 >= 75x"),
        Row("default image", (f32, f64), ours(CwtImage(CwtImageConfig())), ">= 20x, aim 40x"),
        Row("hetero image", (hetero_f32,), ours(HeteroImage(HeteroImageConfig(mains_hz=50.0))), ">= 15x"),
    ]
