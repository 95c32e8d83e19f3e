"""Slow twins of the CWT images: one record, one row, one column at a time, in float64."""

import numpy as np
import pywt


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize with half-pixel centres, two taps an axis, no anti-aliasing, borders clamped: cv2.resize's INTER_LINEAR."""

    def taps(size: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        place = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
        low = np.floor(place).astype(int)
        return low, np.minimum(low + 1, size - 1), place - low

    low, high, w = taps(image.shape[0], height)
    image = image[low] * (1 - w)[:, None] + image[high] * w[:, None]
    low, high, w = taps(image.shape[1], width)
    return image[:, low] * (1 - w) + image[:, high] * w


def magnitudes(x: np.ndarray, scales: np.ndarray, wavelet: str, columns: int) -> np.ndarray:
    """|pywt.cwt|, resized along time."""
    coefficients, _ = pywt.cwt(x, scales, wavelet)
    return bilinear(np.abs(coefficients), len(scales), columns)


def seed_image(waveform: np.ndarray, sample_rate_hz: float, rows: int = 224, columns: int = 224) -> np.ndarray:
    """The original plan's image, (3, 224, 224)."""
    x = waveform.astype(np.float64)
    z = (x - x.mean()) / (x.std() + 1e-8)
    coefficients, _ = pywt.cwt(z, np.arange(1, 129), "morl", sampling_period=1 / sample_rate_hz)
    image = bilinear(np.abs(coefficients), rows, columns)
    image = (image - image.min()) / (image.max() - image.min() + 1e-8)
    return np.stack([image, image, image])


def analytic_image(waveform: np.ndarray, sample_rate_hz: float, rows_hz: tuple[float, ...], columns: int, ends: str = "odd") -> np.ndarray:
    """The analytic image, (2, rows, columns), with exactly 3 sigma of extension; ends "zero" and "circular" are there to be wrong."""
    x = waveform.astype(np.float64)
    x = x - x.mean()
    n = len(x)
    pad = int(np.ceil(3 * 6 / (2 * np.pi * rows_hz[0]) * sample_rate_hz))
    match ends:
        case "odd":
            x = np.pad(x, pad, mode="reflect", reflect_type="odd")
        case "zero":
            x = np.pad(x, pad)
        case "circular":
            pad = 0
    spectrum, v = np.fft.fft(x), np.fft.fftfreq(len(x), 1 / sample_rate_hz)
    image = np.empty((2, len(rows_hz), columns))
    for i, f in enumerate(rows_hz):
        h = np.where((v > 0) & (v < sample_rate_hz / 2), np.exp(-((6 * (v / f - 1)) ** 2) / 2), 0)
        envelope = np.abs(np.fft.ifft(2 * h * spectrum))[pad : pad + n]
        for j in range(columns):
            cell = envelope[j * n // columns : (j + 1) * n // columns]
            image[:, i, j] = cell.mean(), cell.max()
    return image
