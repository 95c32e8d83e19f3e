"""Times of the vectors, 64 records a call, against scipy and numpy record by record: vectorised, as one would write it with care."""

import numpy as np
import scipy.signal
import scipy.stats
import torch

from tests.bench.timing import Route, Row, print_rows
from tests.reference.mains_family import fundamental_hz
from vibray.features.harmonic import EVEN_ORDERS, GAP_ORDERS, ODD_ORDERS, Harmonic, HarmonicConfig
from vibray.features.spectral import Spectral, SpectralConfig
from vibray.features.zerone import Zerone, ZeroneConfig
from vibray.signal.mains_family import mains_family_hz
from vibray.signal.synthetic import FleetConfig, place, waveform

NUM_RECORDS = 64
RATE_HZ, MAINS_HZ = 8192.0, 50.0


def time_statistics(x: np.ndarray) -> np.ndarray:
    """The 15 time statistics of a record in float64."""
    rms, mean_abs, highest = np.sqrt(np.mean(x**2)), np.mean(np.abs(x)), x.max()
    crossings = np.mean(np.diff(np.signbit(x)))
    moments = [x.mean(), rms, x.var(), x.std(), highest, x.min(), np.ptp(x), scipy.stats.kurtosis(x, fisher=False), scipy.stats.skew(x)]
    factors = [highest / rms, highest / mean_abs, highest / np.mean(x**4) ** 0.25, rms / mean_abs]
    return np.array([*moments, crossings, mean_abs, *factors])


def stft_magnitude(xc: np.ndarray, window: int) -> np.ndarray:
    """|STFT| of half-overlapping Hann frames, without the DC bin."""
    _, _, stft = scipy.signal.stft(xc, 1.0, "hann", window, window // 2, detrend=False, boundary=None, padded=False, scaling="spectrum")  # type: ignore[arg-type]
    return np.abs(stft[1:])


def zerone(record: np.ndarray, sample_rate_hz: float) -> np.ndarray:
    """The Zerone vector of a record."""
    x = record.astype(np.float64)
    xc = x - x.mean()
    f, density = scipy.signal.welch(xc, sample_rate_hz, "hann", 4096, 2048, nfft=len(x), detrend=False)  # type: ignore[arg-type]
    hz = np.arange(1, int(sample_rate_hz // 2) + 1)
    psd = np.interp(hz, f[f >= 1], density[f >= 1])
    whole = np.trapezoid(psd) + 1e-12
    hf = [ratio for k in (999, 1999, 2999, 3999) for ratio in (psd[k:].mean() / (psd[:k].mean() + 1e-12), np.trapezoid(psd[k:]) / whole)]
    pooled = psd[1000:2000].reshape(50, 20).mean(axis=1)
    return np.concatenate([time_statistics(x), stft_magnitude(xc, 128).mean(axis=0), psd[:1000], pooled, hf])


def spectral(record: np.ndarray, sample_rate_hz: float) -> np.ndarray:
    """The spectral vector of a record, with the default sizes."""
    x = record.astype(np.float64)
    xc = x - x.mean()
    _, psd = scipy.signal.welch(xc, sample_rate_hz, "hann", 1024, 512, detrend=False)  # type: ignore[arg-type]
    magnitude = {window: stft_magnitude(xc, window) for window in (128, 512)}
    mean = magnitude[128].mean(axis=1)
    moved = []
    for m in magnitude.values():
        energy = np.log((m**2).reshape(32, -1, m.shape[1]).mean(axis=1) + 1e-24)
        moved += [energy.std(axis=1), energy.max(axis=1) - energy.mean(axis=1)]
    log_cv = np.log(magnitude[128].std(axis=1) / (mean + 1e-12) + 1e-4)
    bands = np.log(psd[1:].reshape(64, 8).mean(axis=1) + 1e-24)
    return np.concatenate([time_statistics(x), np.log(mean + 1e-12), log_cv, bands, *moved])


def comb_hz(xc: np.ndarray, sample_rate_hz: float, low_hz: float, high_hz: float, orders: np.ndarray) -> tuple[float, np.ndarray]:
    """Where a comb's summed log power is highest, on a spectrum zero-padded eightfold; and that spectrum, as amplitudes."""
    padding = 8 * len(xc)
    window = np.asarray(scipy.signal.get_window("hann", len(xc)))
    amplitude = np.abs(scipy.fft.rfft(xc * (2 * window / window.sum()), padding))
    steps = int((high_hz - low_hz) * orders[-1] * padding / sample_rate_hz) + 1
    grid = np.linspace(low_hz, high_hz, steps)
    nearest = np.rint(np.outer(grid, orders) * (padding / sample_rate_hz)).astype(int)
    return float(grid[np.log(amplitude[nearest] + 1e-12).sum(axis=1).argmax()]), amplitude


def harmonic(record: np.ndarray, sample_rate_hz: float) -> np.ndarray:
    """Most of the harmonic vector, by a finer grid instead of a climb: lines, ratios, floor, energies, peaks of the cycles."""
    x = record.astype(np.float64)
    xc = x - x.mean()
    f0, amplitude = comb_hz(xc, sample_rate_hz, MAINS_HZ - 0.5, MAINS_HZ + 0.5, np.array(EVEN_ORDERS))
    orders = np.array(EVEN_ORDERS + ODD_ORDERS + GAP_ORDERS)
    found = amplitude[np.rint(orders * (f0 * 8 * len(x) / sample_rate_hz)).astype(int)]
    lines, floor = found[:30], np.median(found[30:] ** 2)
    energy = lines**2
    share = energy / energy.sum()
    hz = np.arange(len(amplitude)) * (sample_rate_hz / 8 / len(x))
    high = [np.log(np.sum(amplitude[(hz >= low) & (hz < top)] ** 2)) for low, top in ((1000, 2000), (2000, np.inf))]
    cycles = np.abs(xc)[: len(x) // 164 * 164].reshape(-1, 164).max(axis=1)
    ratios = [share[0], np.sqrt(energy[1:20].sum() / energy[0]), energy[20:].sum() / energy[:20].sum(), -np.sum(share * np.log(share))]
    return np.array([*np.log(lines), *ratios, np.log(floor), *high, np.log(xc.std()), cycles.std() / cycles.mean()])


def rows() -> list[Row]:
    """The vectors and the search of the mains' family, on records of the synthetic fleet."""
    fleet = FleetConfig(num_records=NUM_RECORDS)
    records = np.stack([waveform(fleet, place(fleet, i)) for i in range(NUM_RECORDS)])
    x = torch.from_numpy(records)
    ours = {
        "zerone": Zerone(ZeroneConfig()),
        "spectral": Spectral(SpectralConfig()),
        "harmonic": Harmonic(HarmonicConfig(mains_hz=MAINS_HZ)),
        "mains_family_hz": mains_family_hz,
    }
    baselines = {
        "zerone": ("scipy, record by record", lambda r: zerone(r, RATE_HZ)),
        "spectral": ("scipy, record by record", lambda r: spectral(r, RATE_HZ)),
        "harmonic": ("numpy, eightfold padding, no climb", lambda r: harmonic(r, RATE_HZ)),
        "mains_family_hz": ("numpy, line by line", lambda r: fundamental_hz(r, RATE_HZ)),
    }
    goals = {"zerone": "goal: 10x", "spectral": "aim: 0.5 ms", "harmonic": "aim: 0.8 ms", "mains_family_hz": "aim: 0.25 ms"}
    return [
        Row(
            name,
            (Route(baselines[name][0], lambda call=baselines[name][1]: [call(record) for record in records], NUM_RECORDS),),
            Route(name, lambda call=call: call(x, RATE_HZ), NUM_RECORDS),
            goals[name],
        )
        for name, call in ours.items()
    ]


if __name__ == "__main__":
    print_rows(rows())
