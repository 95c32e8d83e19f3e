import math

import numpy as np
import torch

from tests.reference import zerone as reference
from vibray.signal.statistics import TIME_STATISTICS, rms, time_statistics


def named(waveform: np.ndarray) -> dict[str, float]:
    return dict(zip(TIME_STATISTICS, time_statistics(torch.from_numpy(waveform).float()[None])[0].tolist(), strict=True))


def test_a_sine_has_the_moments_of_a_sine() -> None:
    a = 3.0
    s = named(a * np.sin(2 * np.pi * 50 * np.arange(8192) / 8192 + 1e-3))
    assert math.isclose(s["rms"], a / math.sqrt(2), rel_tol=1e-6)
    assert math.isclose(s["mean_abs"], 2 * a / math.pi, rel_tol=1e-3)
    assert math.isclose(s["kurtosis"], 1.5, rel_tol=1e-6)
    assert math.isclose(s["margin_factor"], (8 / 3) ** 0.25, rel_tol=1e-3)  # mean x^4 is 3/8 a^4
    assert math.isclose(s["zero_crossing_rate"], 99 / 8191, rel_tol=1e-9)
    assert abs(s["mean"]) < 1e-6 and abs(s["skewness"]) < 1e-5


def test_max_is_signed_in_every_factor() -> None:
    s = named(-np.abs(np.random.default_rng(0).standard_normal(1000)) - 1)
    assert s["max"] < 0 and s["crest_factor"] < 0 and s["impulse_factor"] < 0 and s["margin_factor"] < 0


def test_zero_denominators_give_zero() -> None:
    assert named(np.zeros(100)) == dict.fromkeys(TIME_STATISTICS, 0.0)
    constant = named(np.full(100, 7.3))
    assert constant["std"] == constant["kurtosis"] == constant["skewness"] == 0
    assert constant["crest_factor"] == constant["waveform_factor"] == 1


def test_slow_twin_also_on_a_large_offset() -> None:
    rng = np.random.default_rng(1)
    for x in (rng.standard_normal(8192), rng.gamma(2.0, size=1024), 1000 + 1e-3 * rng.standard_normal(8192)):
        x = x.astype(np.float32)
        got = time_statistics(torch.from_numpy(x)[None])[0].numpy()
        np.testing.assert_allclose(got, reference.time_statistics(x.astype(np.float64)), rtol=1e-9, atol=1e-12)
    assert rms(torch.tensor([[3.0, 4.0]])).item() == math.sqrt(12.5)
