import itertools

import numpy as np
import pytest

from vibray.config import UserError
from vibray.decide.state import SensorHistory, causes, centred_rms, has_mains_line, state_statistics, states
from vibray.schema import Cause, State

RATE = 8192.0
T = np.arange(8192) / RATE
RNG = np.random.default_rng(0)
HUM = 0.1 * np.sin(2 * np.pi * 100 * T) + 0.04 * np.sin(2 * np.pi * 300 * T) + 0.01 * RNG.normal(size=8192)
NOISE = 0.002 * RNG.normal(size=8192)
HUMMING = SensorHistory(median_rms=0.075, mains_share=1.0)
GEARBOX = SensorHistory(median_rms=0.075, mains_share=None)


def batch(*waveforms):
    return np.stack(waveforms).astype(np.float32)


def state(waveform, snr_db: float | None = 40.0, history: SensorHistory | None = HUMMING) -> State:
    statistics = state_statistics(batch(waveform), RATE)
    return states(statistics, None if snr_db is None else np.array([snr_db]), [history])[0]


def with_ringing(at_s, length_s, waveform=HUM, amplitude=3.0):
    burst = amplitude * np.exp(-(T - at_s) / (length_s / 3)) * np.sin(2 * np.pi * 1500 * T)
    return waveform + np.where(at_s <= T, burst, 0)


def cause(waveform, snr_db: float = 40.0) -> Cause | None:
    statistics = state_statistics(batch(waveform), RATE)
    return causes(statistics, states(statistics, np.array([snr_db]), [HUMMING]))[0]


# the rules


def changed(at, value, waveform=HUM):
    other = waveform.copy()
    other[at] = value
    return other


@pytest.mark.parametrize("at", [[100], [0], [8191], [100, 101], [3, 500, 8000], list(range(0, 800, 100))])
@pytest.mark.parametrize("value", [999999.0, -9999.0, 3.0])
def test_isolated_samples_at_values_no_machine_makes_are_a_sensors_fault(at, value):
    assert state(changed(at, value)) == State.SENSOR_FAULT and cause(changed(at, value)) == Cause.ISOLATED


def test_a_shock_that_passed_an_anti_aliasing_filter_is_none():
    for width in (0.8, 0.9):  # of the Nyquist frequency: the least that the neighbours of a single pulse hear of it
        shock = 50 * np.sinc(width * (np.arange(8192) - 3000))
        assert state(HUM + shock) == State.ENERGISED
    assert state(with_ringing(0.4, 0.002, amplitude=30.0)) == State.ENERGISED
    assert state(changed([100, 101, 102], 3.0)) == State.ENERGISED  # three in a row are a pulse
    assert state(changed([100], 0.9)) == State.ENERGISED


@pytest.mark.parametrize("bits", [15, 23, 31])
def test_counts_at_a_converters_mid_scale_are_no_amplifier_at_its_rail(bits):
    counts = 2.0**bits + 2.0 ** (bits - 16) * 20_000 * HUM
    assert state(counts) == State.ENERGISED
    assert state(1e5 + HUM) == State.SENSOR_FAULT and cause(1e5 + HUM) == Cause.OFFSET


def test_each_fault_of_a_sensor_says_why():
    assert cause(HUM) is None and cause(NOISE, 0.0) is None
    assert cause(changed(slice(1000, 2000), 0.1)) == Cause.HANGS
    assert cause(np.sign(NOISE)) == Cause.FEW_VALUES
    assert cause(changed(slice(3000, 3600), 0.0) + 1e-7 * RNG.normal(size=8192)) == Cause.CUT


def test_a_healthy_record_is_energised():
    assert state(HUM) == State.ENERGISED


def test_without_a_history_of_a_mains_line_it_is_unknown():
    assert state(HUM, history=None) == State.UNKNOWN
    assert state(HUM, None, GEARBOX) == State.UNKNOWN
    assert state(HUM, history=SensorHistory(0.075, mains_share=0.49)) == State.UNKNOWN


def test_off_needs_a_history_of_a_line_and_neither_line_nor_level_now():
    assert state(NOISE, 0.0) == State.OFF
    assert state(NOISE, 20.0) == State.ENERGISED  # it hums, however softly
    assert state(HUM, 0.0) == State.ENERGISED  # noise drowns the line: the level is as usual
    assert state(NOISE, 0.0, None) == State.UNKNOWN
    assert state(NOISE, 0.0, SensorHistory(0.075, mains_share=0.2)) == State.UNKNOWN
    assert state(NOISE, None) == State.ENERGISED  # the line was not looked for
    assert state(NOISE, np.nan) == State.ENERGISED


def test_off_on_a_coarse_or_inclined_sensor_is_off_and_no_fault():
    coarse = 0.001 * np.round(NOISE / 0.002)
    assert len(np.unique(coarse)) < 10
    assert state(coarse, 0.0) == State.OFF
    assert state(1.0 + NOISE / 100, 0.0) == State.OFF  # 1 g of gravity


@pytest.mark.parametrize("at_s", [0.3, 0.5, 0.75])
@pytest.mark.parametrize("loud_first", [False, True])
def test_switching_within_the_record_is_transient(at_s, loud_first):
    switched = np.where(at_s > T, *((HUM, NOISE) if loud_first else (NOISE, HUM)))
    assert state(switched) == State.TRANSIENT
    assert state(switched, None, None) == State.TRANSIENT


def test_a_decaying_inrush_is_transient():
    assert state(HUM * (1 + 12 * np.exp(-T / 0.2))) == State.TRANSIENT


@pytest.mark.parametrize("at_s", [0.02, 0.31, 0.5, 0.9])
@pytest.mark.parametrize("length_s", [0.005, 0.03, 0.1])
def test_a_short_impact_is_no_transient(at_s, length_s):
    assert state(with_ringing(at_s, length_s)) == State.ENERGISED


def test_several_impacts_and_modulation_are_no_transient():
    train = HUM
    for at_s in np.arange(0.05, 1, 0.2):
        train = with_ringing(at_s, 0.03, train)
    assert state(train) == State.ENERGISED
    assert state(HUM * (1 + 0.8 * np.sin(2 * np.pi * 10 * T))) == State.ENERGISED


def test_a_hanging_sensor_is_a_fault():
    stuck = HUM.copy()
    stuck[3000:4000] = stuck[3000]
    assert state(stuck) == State.SENSOR_FAULT
    often = np.repeat(HUM[::20], 20)[:8192]  # holds each value for 20 samples
    assert state(often) == State.SENSOR_FAULT
    assert state(np.repeat(HUM[::4], 4)[:8192]) == State.ENERGISED  # upsampled, not hanging


def test_almost_no_values_a_cut_line_and_a_rail_are_faults():
    assert state(np.sign(HUM) * (1 + (np.arange(8192) % 3))) == State.SENSOR_FAULT
    cut = HUM.copy()
    cut[5000:6000] *= 1e-5
    assert state(cut) == State.SENSOR_FAULT
    assert state(2000 + HUM) == State.SENSOR_FAULT
    assert state(10 + HUM) == State.ENERGISED


def test_a_fault_of_the_sensor_comes_before_off_only_where_it_hangs():
    dead = NOISE.copy()
    dead[1000:3000] = 0
    assert state(dead, 0.0) == State.SENSOR_FAULT


# the statistics


def test_level_in_closed_form():
    sine = 5 + 2 * np.sin(2 * np.pi * 64 * T)
    found = state_statistics(batch(sine), RATE)
    assert found["rms"][0] == pytest.approx(2 / np.sqrt(2), rel=1e-6)
    assert found["offset"][0] == pytest.approx(5, rel=1e-6)
    assert centred_rms(batch(sine))[0] == found["rms"][0]
    assert found["level_change"][0] == pytest.approx(1, abs=1e-6)
    doubled = np.where(T < 0.5, 1, 4) * np.sin(2 * np.pi * 64 * T)
    assert state_statistics(batch(doubled), RATE)["level_change"][0] == pytest.approx(4, rel=1e-6)


def test_runs_are_those_of_groupby():
    rng = np.random.default_rng(1)
    x = np.stack([np.repeat(rng.integers(0, 3, 500), rng.integers(1, 30, 500))[:700] for _ in range(20)]).astype(np.float32)
    found = state_statistics(x, RATE)
    for row, waveform in enumerate(x):
        runs = [len(list(run)) for _, run in itertools.groupby(waveform.tolist())]
        assert found["longest_run_share"][row] == max(runs) / 700
        assert found["held_share"][row] == sum(n for n in runs if n >= 16) / 700
        assert found["num_values"][row] == len(set(waveform.tolist()))


def test_a_record_does_not_depend_on_its_batch_and_level_scales():
    waveforms = batch(HUM, NOISE, with_ringing(0.4, 0.05), *(RNG.normal(size=(70, 8192))))
    together = state_statistics(waveforms, RATE)
    for row in (0, 1, 2, 63, 64, 72):
        alone = state_statistics(waveforms[row : row + 1], RATE)
        assert {name: values[0] for name, values in alone.items()} == {name: values[row] for name, values in together.items()}
    louder = state_statistics(8 * waveforms, RATE)
    assert np.array_equal(louder["rms"], 8 * together["rms"])
    assert np.array_equal(louder["level_change"], together["level_change"])


def test_still_and_empty_records_have_finite_statistics():
    still = np.zeros((1, 8192), np.float32)
    still[0, 5] = 1
    assert all(np.isfinite(values).all() for values in state_statistics(still, RATE).values())
    assert {name: values.shape for name, values in state_statistics(still[:0], RATE).items()}["rms"] == (0,)
    assert states(state_statistics(still[:0], RATE), None, []) == []


def test_short_records_and_missing_histories_are_refused():
    with pytest.raises(UserError, match="at least 64 samples, not 63"):
        state_statistics(np.zeros((1, 63), np.float32), RATE)
    with pytest.raises(ValueError, match="1 histories for 2 records"):
        states(state_statistics(batch(HUM, HUM), RATE), None, [None])


def test_mains_line_of_an_unknown_snr_is_none():
    assert has_mains_line(np.array([9.9, 10.0, np.nan])).tolist() == [False, True, False]
