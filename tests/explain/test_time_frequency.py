"""Where a column's share is put: on planted tones and bursts whose place is known."""

import numpy as np
import torch

from vibray.explain.time_frequency import Column, over_time, plane, plane_hz
from vibray.signal.injected import inject

RATE_HZ, NUM_SAMPLES = 8192.0, 8192


def noise(num: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((num, NUM_SAMPLES)))


def test_a_sine_has_its_row_in_every_column() -> None:
    time_s = torch.arange(NUM_SAMPLES) / RATE_HZ
    power = plane(3 * torch.sin(2 * torch.pi * 1000 * time_s)[None], RATE_HZ)
    _, rows_hz = plane_hz(RATE_HZ, NUM_SAMPLES)
    assert power.shape == (1, 256, 32)
    assert abs(rows_hz[int(power[0].mean(1).argmax())] - 1000) <= 8
    # A^2 / 4 on its bin, a quarter of that beside it on either side (Hann); the bins 992 and 1000 Hz, 1008 and 1016 Hz are rows
    torch.testing.assert_close(power[0, :, 4:28].sum(0) * 2, torch.full((24,), 9 / 4 * 1.5).double(), rtol=1e-3, atol=0)


def test_shares_are_kept_and_lie_in_their_band() -> None:
    x = noise(2)
    power, (_, rows_hz) = plane(x, RATE_HZ), plane_hz(RATE_HZ, NUM_SAMPLES)
    columns = [Column(500.0, 600.0, 1.0), Column(2000.0, 2000.0, 2.0), None, Column(100.0, 4000.0, 0.0)]
    shares = torch.tensor([[1.0, 2.0, 5.0, 3.0], [4.0, -1.0, 5.0, 0.5]]).double()
    risen = torch.tensor([[1.0, 1.0, 1.0, 1.0], [-1.0, 1.0, 1.0, 1.0]]).double()
    found = over_time(shares, risen, columns, power, rows_hz)
    torch.testing.assert_close(found.sum((1, 2)), torch.tensor([6.0, -0.5]).double())  # not the fallen column, nor the one without Hz
    hz = torch.tensor(rows_hz)
    alone = over_time(shares[:1, :1], risen[:1, :1], columns[:1], power[:1], rows_hz)
    assert bool((alone[0, (hz < 492) | (hz > 608)] == 0).all())
    line = over_time(shares[:1, 1:2], risen[:1, 1:2], columns[1:2], power[:1], rows_hz)
    assert (line[0].sum(1) > 0).sum() <= 2 and abs(hz[int(line[0].sum(1).argmax())] - 2000) <= 8


def test_a_burst_has_its_share_where_it_is_and_a_steady_rise_everywhere() -> None:
    x = noise()
    usual = plane(x, RATE_HZ)
    _, rows_hz = plane_hz(RATE_HZ, NUM_SAMPLES)
    band = [Column(1000.0, 3000.0, 1.0)]
    rows = (torch.tensor(rows_hz) > 1000) & (torch.tensor(rows_hz) < 3000)
    burst = x.clone()
    burst[:, 4000:4080] += 40 * torch.sin(2 * torch.pi * 2000 / RATE_HZ * torch.arange(80))
    for record, expected in ((burst, 0.9), (3 * x, 0.0)):
        power = plane(record, RATE_HZ)
        risen = (power[:, rows].mean((1, 2)) / usual[:, rows].mean((1, 2))).log()[:, None]
        found = over_time(torch.ones(1, 1).double(), risen, band, power, rows_hz)[0].sum(0)
        near = found[13:18].sum() / found.sum()
        assert near > expected if expected else 0.1 < near < 0.25


def test_an_injected_band_and_its_impulses_are_found_where_they_were_added() -> None:
    """The largest cells of the difference hold most of what the excess of the whole spectrum is spread over."""
    x = noise(6)
    _, rows_hz = plane_hz(RATE_HZ, NUM_SAMPLES)
    whole = [Column(64.0 * i, 64.0 * i + 64, 1.0) for i in range(64)]
    for kind in ("band", "impulses"):
        faulty = inject(x, RATE_HZ, kind, 3.0, np.arange(6, dtype=np.uint64))
        usual, power = plane(x, RATE_HZ), plane(faulty, RATE_HZ)
        levels = [p.unflatten(1, (64, 4)).mean((2, 3)).log() for p in (power, usual)]
        risen = levels[0] - levels[1]
        found = over_time(risen.clamp(min=0), risen, whole, power, rows_hz).flatten(1)
        difference = (power.sqrt() - usual.sqrt()).abs().flatten(1)
        at = difference.topk(int(0.15 * difference.shape[1])).indices
        share = found.gather(1, at).sum(1) / found.sum(1)
        assert bool((share > 0.5).all()), (kind, share)
