import numpy as np
import pytest
import torch

from tests.reference.harmonics import transformer
from vibray.signal.mains_family import mains_family_hz
from vibray.signal.sample_rates import USUAL_RATES_HZ, Voice, against_rate, families, near, usual_rate_hz, voice
from vibray.signal.synthetic import Condition, FleetConfig, Place, waveform

RATES = (2048.0, 4096.0, 5000.0, 6400.0, 8000.0, 8192.0, 10000.0, 12800.0, 16384.0, 20000.0, 25600.0)
FAULTS = (None, "winding_looseness", "core_looseness", "dc_bias", "tap_changer", "fan_bearing")


def corpus(*fundamentals_hz: float, of_a_unit: int = 1, records: int = 5) -> dict[str, Voice]:
    """A sensor a fundamental."""
    return {f"u{i // of_a_unit}/s{i}": Voice(f"u{i // of_a_unit}", hz, records) for i, hz in enumerate(fundamentals_hz)}


def said(voices: dict[str, Voice], stated_hz: float, mains_hz: float = 50.0) -> str:
    found = against_rate(voices, stated_hz, mains_hz)
    return "" if found is None else found[1]


def test_usual_rates_are_further_apart_than_the_mains_wander() -> None:
    rates = np.array(USUAL_RATES_HZ)
    assert (rates[1:] / rates[:-1]).min() > 1.02
    assert set(RATES) | {1000.0, 11_025.0, 44_100.0, 48_000.0, 50_000.0, 51_200.0, 65_536.0, 102_400.0} <= set(USUAL_RATES_HZ)
    assert usual_rate_hz(8200.0) == 8192 and usual_rate_hz(8090.0) is None and usual_rate_hz(8060.0) == 8000


def test_a_sensor_says_what_half_of_its_records_say() -> None:
    assert voice("u", [100.0, 100.1, 50.0, 99.9], 4) == Voice("u", 100.0, 3)
    assert voice("u", [100.0, 100.1], 4) == Voice("u", 100.05, 2)
    assert voice("u", [100.0, 100.1], 5) is None and voice("u", [], 0) is None
    assert voice("u", [29.0, 41.0, 77.0, 31.0], 4) is None  # lines that wander with a speed


def test_families_take_all_that_may_be_of_one() -> None:
    voices = corpus(100.0, 100.2, 200.0, 50.0, 300.1, 122.0, 244.0)
    right, wrong = families(voices, 100.0)
    assert right.num_kin == 5 and right.sensors == ("u0/s0", "u1/s1") and right.fundamental_hz == pytest.approx(100.1)
    assert wrong.num_kin == 2 and near(wrong.fundamental_hz, 122.0)
    assert families({}, 100.0) == []


@pytest.mark.parametrize("mains", [50, 60])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fleet_read_at_another_rate(mains: int, fault: str | None) -> None:
    """Eight records of as many machines, true rate 8192 Hz, read as each other rate and 2 % off: one proposal, the true one, or a list that
    has it where each stands on six machines or fewer; nothing at the right rate."""
    fleet = FleetConfig(mains_hz=50 if mains == 50 else 60, disturbance_share=0.12, seed=5)
    what = Condition() if fault is None else Condition(fault, 0.7)
    records = np.stack([waveform(fleet, Place(unit, 0, 3), what) for unit in range(8)])
    per_hz = mains_family_hz(torch.from_numpy(records), 1.0).numpy()
    for stated in (*RATES, 8192 * 0.98, 8192 * 1.02):
        found = {f"u{i}/s": v for i, hz in enumerate(per_hz * stated) if (v := voice(f"u{i}", [float(hz)], 1))}
        text = said(found, stated, float(mains))
        assert (text == "") == (stated == 8192), text
        if text and stated not in (4096, 16384):
            assert "the sample rate is 8,192 Hz rather than" in text and "--sample-rate-hz 8192" in text
        elif text:
            assert "8,192 Hz" in text


@pytest.mark.parametrize("mains", [50.0, 60.0])
@pytest.mark.parametrize("true", RATES)
def test_each_rate_read_as_each_other(true: float, mains: float) -> None:
    lines = {100: 1.0, 200: 0.4, 300: 0.5, 400: 0.2}
    records = np.stack([transformer(mains * (1 + 1e-3 * (i - 1)), true, 8192, noise=0.02, lines=lines, seed=i) for i in range(3)])
    per_hz = np.tile(mains_family_hz(torch.from_numpy(records), 1.0).numpy(), 2)
    for stated in RATES:
        found = against_rate(corpus(*(per_hz * stated).tolist()), stated, mains)
        if stated == true:
            assert found is None
        else:
            assert found is not None and found[0] == 6 and f"the sample rate is {true:,.0f} Hz rather than {stated:,.0f} Hz" in found[1]


def test_few_sensors_ask_and_name_what_fits() -> None:
    text = said(corpus(200.1), 8192.0)
    assert "may be 8,192 Hz as stated if only some of the lines stand, or 4,096 Hz if the lowest line is truly 100 Hz" in text
    text = said(corpus(50.0, 50.1), 8192.0)
    assert "may be 8,192 Hz as stated if the lines between are as strong, as under a DC bias, or 16,384 Hz if the lowest" in text
    text = said(corpus(122.07), 10000.0)
    assert "may be 8,192 Hz if the lowest line is truly 100 Hz, or 16,384 Hz if the lowest line is truly 200 Hz, or 4,096 Hz" in text
    # many sensors, but of one machine: what it does is no fact of the measuring chain
    assert "may be 8,192 Hz as stated" in said(corpus(*[200.0] * 12, of_a_unit=12), 8192.0)
    assert "is 4,096 Hz rather than 8,192 Hz" in said(corpus(*[200.0] * 12, of_a_unit=3), 8192.0)


def test_at_the_right_rate_nothing_is_said() -> None:
    assert said(corpus(100.0), 8192.0) == said(corpus(99.2, 100.8), 8192.0) == said(corpus(120.1), 8192.0, 60.0) == ""
    assert said(corpus(100.0, 200.0, 400.0, 50.0, 300.0), 8192.0) == ""  # some sensors hear other lines of it
    assert said(corpus(100.0, 100.0, 37.9), 8192.0) == ""  # one hears another machine: at 21,614 Hz nobody records
    assert said(corpus(122.07, records=4), 10000.0) == ""  # too little
    assert said({}, 8192.0) == ""


def test_sensors_that_disagree() -> None:
    found = against_rate(corpus(100.0, 100.1, 100.0, 81.92, 81.9), 8192.0, 50.0)
    assert found is not None and found[0] == 2
    assert found[1].startswith("the sensors disagree about the sample rate: the lines of u0/s0, u1/s1, u2/s2 (3 in all)")
    assert "as at 8,192 Hz; the lines of u3/s3, u4/s4 (2 in all)" in found[1] and "10,000 Hz" in found[1]
    both_wrong = said(corpus(122.07, 122.07, 122.07, 122.07, 78.1, 78.1), 10000.0)
    assert "disagree" in both_wrong and "8,192 Hz" in both_wrong and "12,800 Hz" in both_wrong


def test_the_other_mains_frequency_explains_it_too() -> None:
    text = said(corpus(*[120.0] * 6), 8192.0)
    assert "may be 8,192 Hz as stated if the mains frequency is 60 Hz (--mains 60); " in text
    assert "8,192 Hz as stated if the mains frequency is 50 Hz (--mains 50); " in said(corpus(*[100.0] * 6), 8192.0, 60.0)
    text = said(corpus(*[120.0] * 6), 12000.0)
    assert "12,000 Hz as stated if the mains frequency is 60 Hz (--mains 60), or 10,000 Hz if the lowest line is truly 100 Hz" in text
    # 60 Hz machines at 8192 Hz, read as 10,000 Hz: at 50 Hz 6827 Hz would fit, which is no usual rate
    text = said(corpus(*[146.48] * 6), 10000.0)
    assert "may be 6,827 Hz, which recorders seldom have" in text and "or 8,192 Hz if the mains frequency is 60 Hz (--mains 60)" in text


def test_a_rate_that_recorders_seldom_have() -> None:
    text = said(corpus(*[98.0392] * 6), 8192.0)
    assert "may be 8,356 Hz, which recorders seldom have, if the lines are the mains' at all (else --mains none)" in text
