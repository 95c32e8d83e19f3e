import itertools
import json
import zlib
from collections import Counter
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest

from tests.reference.b64 import difficulty, table
from vibray.config import UserError, from_json, to_json
from vibray.schema import NORMAL, Reason
from vibray.signal.broken import LINE_REASONS
from vibray.signal.faults import FAULTS
from vibray.signal.synthetic import (
    Condition,
    FleetConfig,
    Place,
    condition,
    fleet_lines,
    label_row,
    measured_at,
    num_lines,
    place,
    truncated_shard,
    waveform,
)
from vibray.signal.transformer import line_sum, sensor, transfer, unit
from vibray.storage.corpus import CorpusFacts
from vibray.storage.records import BadRecord, Record, parse_line

FLEET = FleetConfig(num_records=60)
CALM = FleetConfig(disturbance_share=0.0)
FACTS = CorpusFacts(8192.0, unit_pattern=r"^(u\d+)-")
HEALTHY = Condition()


def amplitude(x: np.ndarray, hz: float, rate: float = 8192.0) -> float:
    """Of the line at `hz`, by a periodic Hann window of one second and its neighbours."""
    power = np.abs(np.fft.rfft(x * np.hanning(len(x) + 1)[:-1])) ** 2 / (len(x) / 2) ** 2
    bin_hz = round(hz * len(x) / rate)
    return float(np.sqrt(power[bin_hz - 2 : bin_hz + 3].sum() / 1.5) * 2)


def envelope_spectrum(x: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    """Amplitude, 1 Hz a bin, of the envelope of a band relative to its mean."""
    spectrum = np.fft.fft(x)
    f = np.fft.fftfreq(len(x), 1 / 8192)
    envelope = np.abs(np.fft.ifft(2 * spectrum * ((f > low_hz) & (f < high_hz))))
    return 2 * np.abs(np.fft.rfft(envelope))[: len(x) // 2] / envelope.sum()


def changed(fault: str, at: Place, severity: float = 1.0) -> np.ndarray:
    """What a fault adds to a record."""
    return waveform(CALM, at, Condition(fault, severity)).astype(np.float64) - waveform(CALM, at, HEALTHY)


# ---------------------------------------------------------------- the machine


def test_sum_of_lines_is_the_sum_of_cosines() -> None:
    hz, a = np.array([100.03, 300.1, 1234.5, 3990.0]), np.array([1.0, 0.5j, -0.2 + 0.1j, 7.0])
    t = np.arange(1000) / 8192
    expected = sum(
        abs(c) * np.cos(2 * np.pi * f * t + np.angle(c)) for f, c in zip(hz[:3], a[:3], strict=True)
    )  # the last is too near Nyquist
    np.testing.assert_allclose(line_sum(hz, a, 1000, 8192.0), expected, atol=1e-9)


@pytest.mark.parametrize("mains_hz", [50, 60])
def test_it_hums_at_twice_the_mains_frequency_and_even_multiples(mains_hz: int) -> None:
    config = replace(CALM, mains_hz=mains_hz)
    x = np.stack([waveform(config, Place(u, 0, 5), HEALTHY) for u in range(8)])
    even = np.median([[amplitude(row, 2 * k * mains_hz) for k in range(1, 7)] for row in x], axis=0)
    odd = np.median([[amplitude(row, (2 * k - 1) * mains_hz) for k in range(2, 7)] for row in x], axis=0)
    assert even[0] > 3 * even[1:].max() / 2 and even[5] > 2 * odd.max()


def test_core_follows_the_voltage_squared_and_winding_the_current_squared() -> None:
    from vibray.signal.transformer import moment

    moments = [moment(0, 1, step, 5820.0 * step, 50.0, True, 64) for step in range(300)]
    log = np.log([[abs(m.core[0]), m.voltage, abs(m.winding[0]), m.load] for m in moments])
    assert np.polyfit(log[:, 3], log[:, 2], 1)[0] == pytest.approx(2, abs=0.1)
    assert np.polyfit(log[:, 1], log[:, 0], 1)[0] == pytest.approx(2, abs=1.5)  # the voltage moves by 1 % only


def test_load_follows_the_hour_and_the_week() -> None:
    from vibray.signal.transformer import load_at

    u = unit(0, 2)
    hours = np.array([[load_at(u, 86_400.0 * day + 3600 * hour) for hour in range(24)] for day in range(28)])
    assert np.corrcoef(hours[:14].mean(axis=0), hours[14:].mean(axis=0))[0, 1] > 0.95
    weekend = np.isin(np.arange(28) % 7, (5, 6))
    assert hours[weekend].mean() < hours[~weekend].mean() - 0.03


def test_grid_frequency_wanders_near_its_nominal_value() -> None:
    from vibray.signal.transformer import moment

    f0 = np.array([moment(0, 1, step, 5820.0 * step, 50.0, True, 64).f0_hz for step in range(200)])
    assert 0.005 < f0.std() < 0.05 and np.abs(f0 - 50).max() < 0.1


def test_sensors_differ_and_a_warmer_structure_moves_their_resonances() -> None:
    f = np.linspace(100, 3500, 2000)
    a, b = sensor(0, 0, 0), sensor(0, 0, 1)
    assert np.corrcoef(np.abs(transfer(a, "core", f, 55.0)), np.abs(transfer(b, "core", f, 55.0)))[0, 1] < 0.7
    cold, warm = np.abs(transfer(a, "core", f, 35.0)), np.abs(transfer(a, "core", f * (1 - 4e-4 * 20) / (1 + 4e-4 * 20), 75.0))
    assert not np.allclose(cold, np.abs(transfer(a, "core", f, 75.0)), rtol=1e-2)
    np.testing.assert_allclose(cold, warm, rtol=1e-9)


def test_a_machine_that_is_off_does_not_hum() -> None:
    at = Place(0, 0, 3)
    off, on = waveform(CALM, at, Condition(energised=False)), waveform(CALM, at, HEALTHY)
    assert off.std() < 0.2 * on.std() and amplitude(off, 100) < 0.02 * amplitude(on, 100)


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("disturbance_share", [0.0, 1.0])
def test_severity_0_is_the_healthy_machine_bit_for_bit(fault: str, disturbance_share: float) -> None:
    config = replace(CALM, disturbance_share=disturbance_share)
    for at in (Place(0, 0, 7), Place(3, 2, 11), Place(5, 1, 4)):
        healthy = waveform(config, at, HEALTHY)
        assert waveform(config, at, Condition(fault, 0.0)).tobytes() == healthy.tobytes()
        assert waveform(config, at, Condition(fault, 1e-3)).tobytes() != healthy.tobytes()


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_fault_adds_grows_with_its_severity(fault: str) -> None:
    places = [Place(u, s, 20 + u) for u in range(4) for s in range(3)]
    levels = np.array([[changed(fault, at, severity).std() for severity in (0.3, 0.6, 1.0)] for at in places])
    # an envelope times lines grows a little faster than the severity
    assert np.all(levels[:, 1] / levels[:, 0] > 1.95) and np.all(levels[:, 2] / levels[:, 1] > 1.6)
    # every sensor of a unit hears it, in its degree
    assert levels.min() > 0 and len(set(np.round(levels[:3, 2], 6))) == 3


def test_winding_looseness_follows_the_load_and_swells_slowly() -> None:
    from vibray.signal.synthetic import _moment

    places = [Place(1, 0, step) for step in range(40)]
    loads = np.array([_moment(CALM, at.unit, at.step, HEALTHY).load for at in places])
    levels = np.array([changed("winding_looseness", at).std() for at in places])
    assert np.corrcoef(loads**2, levels)[0, 1] > 0.7
    at = places[int(loads.argmax())]
    loose = envelope_spectrum(waveform(CALM, at, Condition("winding_looseness", 1.0)), 60, 140)[1:13]
    sound = envelope_spectrum(waveform(CALM, at, HEALTHY), 60, 140)[1:13]
    assert loose.max() > 2 * sound.max()


def test_core_looseness_raises_300_to_1000_hz_and_rattles_twice_a_cycle() -> None:
    at = Place(2, 1, 9)
    raised = np.array(
        [amplitude(changed("core_looseness", at), 100 * k) / amplitude(waveform(CALM, at, HEALTHY), 100 * k) for k in range(1, 11)]
    )
    assert raised[3:8].mean() > 0.3 > 0.1 > raised[0]
    rattle = envelope_spectrum(changed("core_looseness", at), 1600, 2300)
    assert 98 <= 30 + rattle[30:130].argmax() <= 102


def test_dc_bias_brings_odd_harmonics() -> None:
    at = Place(4, 0, 9)
    added, healthy = changed("dc_bias", at), waveform(CALM, at, HEALTHY)
    odd = [amplitude(added, 50 * k) / amplitude(healthy, 100) for k in (3, 5, 7, 9)]
    even = [amplitude(added, 50 * k) / amplitude(healthy, 50 * k) for k in (2, 4, 6)]
    assert min(odd) > 0.02 and 0.05 < np.median(even) < 0.2  # core and winding interfere


def test_tap_changer_is_a_few_short_hits() -> None:
    for step in range(5):
        power = np.sort(changed("tap_changer", Place(0, 1, step)).reshape(64, 128).var(axis=1))[::-1]
        assert power[:16].sum() > 0.9 * power.sum()


def test_fan_bearing_repeats_at_its_rate_in_its_band() -> None:
    u = unit(0, 3)
    added = changed("fan_bearing", Place(3, 0, 9))
    spectrum = np.abs(np.fft.rfft(added)) ** 2
    near = slice(int(u.bearing_band_hz - 500), int(u.bearing_band_hz + 500))
    assert spectrum[near].sum() > 0.95 * spectrum.sum()
    rate = 30 + envelope_spectrum(added, u.bearing_band_hz - 300, u.bearing_band_hz + 300)[30:100].argmax()
    assert rate == pytest.approx(u.bearing_hz, rel=0.03, abs=1)


def test_inter_turn_short_hums_at_even_harmonics_whatever_the_load_and_not_without_voltage() -> None:
    from vibray.signal.synthetic import _moment

    places = [Place(5, 0, step) for step in range(40)]
    loads = np.array([_moment(CALM, at.unit, at.step, HEALTHY).load for at in places])
    levels = np.array([changed("inter_turn_short", at).std() for at in places])
    assert abs(np.corrcoef(loads**2, levels)[0, 1]) < 0.5 and levels.min() > 0.5 * levels.max()
    added = changed("inter_turn_short", places[0])
    even, odd = (np.array([amplitude(added, 50 * k) for k in ks]) for ks in (range(2, 20, 2), range(1, 20, 2)))
    assert even.max() > 10 * odd.max()
    off = _moment(CALM, 5, 0, Condition(energised=False))
    assert np.all(FAULTS["inter_turn_short"](off, unit(0, 5), 1.0, np.random.default_rng(0), 8192.0).sounds[0].signal == 0)


# ---------------------------------------------------------------- the fleet


def test_a_record_is_a_function_of_its_place_alone() -> None:
    forward = [waveform(FLEET, place(FLEET, i)) for i in range(30)]
    backward = [waveform(replace(FLEET, num_records=5000), place(FLEET, i)) for i in reversed(range(30))][::-1]
    assert np.array_equal(forward, backward)
    assert not np.array_equal(forward[0], waveform(replace(FLEET, seed=1), place(FLEET, 0)))


def test_a_continued_corpus_is_the_later_part_of_a_longer_one() -> None:
    later = replace(FLEET, first_step=2, num_records=12)
    shift = 2 * FLEET.num_units * FLEET.sensors_per_unit
    assert [next(fleet_lines(later, i, i + 1)) for i in range(3)] == [next(fleet_lines(FLEET, i + shift, i + shift + 1)) for i in range(3)]


def test_other_units_are_other_machines() -> None:
    other = replace(FLEET, first_unit=8)
    rows = [label_row(config, i) for config in (FLEET, other) for i in range(48)]
    assert not {row["unit"] for row in rows[:48]} & {row["unit"] for row in rows[48:]}
    assert not np.array_equal(waveform(FLEET, place(FLEET, 0)), waveform(other, place(other, 0)))


def test_shares_of_faults_and_outages_are_those_asked_for() -> None:
    config = FleetConfig(num_records=24_000, contamination=0.1, off_share=0.02)
    conditions = [condition(config, place(config, i)) for i in range(0, config.num_records, 3)]
    counts = Counter(what.fault for what in conditions)
    assert {fault: num for fault, num in counts.items() if fault} == dict.fromkeys(config.faults, 0.02 * len(conditions))
    assert set(FAULTS) - set(config.faults) == {"inter_turn_short"}  # unknown unless it is asked for
    assert sum(not what.energised for what in conditions) == 0.02 * len(conditions)
    assert all(what.energised for what in conditions if what.fault)
    severities = np.array([what.severity for what in conditions if what.fault])
    assert 0.3 <= severities.min() < 0.32 and 0.98 < severities.max() <= 1 and severities.mean() == pytest.approx(0.65, abs=0.04)


def test_all_sensors_of_a_unit_share_time_and_fault() -> None:
    config = replace(FLEET, num_records=2400, contamination=0.3)
    rows = [label_row(config, i) for i in range(config.num_records)]
    for group in zip(*(rows[s::3] for s in range(3)), strict=True):
        assert len({(row["unit"], row["data_time"], row["label"], row["severity"]) for row in group}) == 1
        assert len({row["sensor_id"] for row in group}) == 3


def test_no_sensor_measures_twice_at_one_time_and_times_only_grow() -> None:
    config = FleetConfig(num_units=2, interval_s=1.0)
    times = [measured_at(config, 1, step) for step in range(2000)]
    assert all(b > a for a, b in itertools.pairwise(times))


def test_nothing_of_the_class_in_order_or_time() -> None:
    config = FleetConfig(num_records=12_000, contamination=0.5, off_share=0.0)
    rows = [label_row(config, i) for i in range(0, config.num_records, 3)]
    faulty = np.array([row["label"] != NORMAL for row in rows])
    millisecond = np.array([datetime.fromisoformat(row["data_time"]).microsecond // 1000 for row in rows])
    for fact in (np.arange(len(rows)) % 8, millisecond, np.arange(len(rows)), np.roll(faulty, 1), np.roll(faulty, 8)):
        assert abs(np.corrcoef(faulty, fact)[0, 1]) < 0.06
    faults = np.array([row["label"] for row in rows])[faulty]
    assert np.mean(faults[1:] == faults[:-1]) == pytest.approx(0.2, abs=0.04)


def test_severity_does_not_change_who_is_faulty() -> None:
    mild = replace(FLEET, severity=(0.0, 0.0), num_records=600)
    assert [label_row(mild, i)["label"] for i in range(600)] == [label_row(replace(FLEET, num_records=600), i)["label"] for i in range(600)]


# ---------------------------------------------------------------- lines


def parsed(config: FleetConfig) -> list[Record | BadRecord]:
    lines = [line for line, _ in fleet_lines(config, 0, config.num_records)]
    return [parse_line(line, "part-00000.jsonl", i, i + 1, "fleet", FACTS) for i, line in enumerate(lines)]


def test_lines_read_back_to_the_waveforms() -> None:
    for index, record in enumerate(parsed(FLEET)):
        assert isinstance(record, Record)
        at = place(FLEET, index)
        np.testing.assert_allclose(record.waveform, waveform(FLEET, at), rtol=5e-5)
        assert (record.unit, record.sensor_id) == (f"u{at.unit:02d}", f"u{at.unit:02d}-s{at.sensor + 1}")
        assert record.measured_at == measured_at(FLEET, at.unit, at.step)


def test_labels_stand_beside_the_lines_not_in_them() -> None:
    config = replace(FLEET, contamination=1.0, off_share=0.0)
    for index, (line, row) in enumerate(fleet_lines(config, 0, 12)):
        assert row is not None and row == label_row(config, index) and set(row) == {"sensor_id", "data_time", "unit", "label", "severity"}
        assert set(json.loads(line)) == {"data_time", "signal_value", "sensor_id"} and row["label"].encode() not in line


def test_every_reason_of_a_line_is_among_the_broken_ones() -> None:
    config = replace(FLEET, broken_share=0.25)
    records = parsed(config)
    bad = [record for record in records if isinstance(record, BadRecord)]
    assert [record.reason for record in bad] == [LINE_REASONS[i % len(LINE_REASONS)] for i in range(15)]
    assert len(records) == num_lines(config) == 75
    keys = [(r.sensor_id, r.measured_at) for r in records if isinstance(r, Record)]
    assert len(keys) == len(set(keys)) == config.num_records


def test_lines_do_not_depend_on_where_a_shard_begins() -> None:
    config = replace(FLEET, broken_share=0.3, num_records=20)
    whole = list(fleet_lines(config, 0, 20))
    assert whole == [item for start in (0, 7, 14) for item in fleet_lines(config, start, min(start + 7, 20))]


def test_a_line_over_16_mb_comes_last_and_on_request() -> None:
    config = replace(FLEET, num_records=2, long_line=True)
    lines = list(fleet_lines(config, 0, 2))
    assert [len(line) > 16 << 20 for line, _ in lines] == [False, False, True] and num_lines(config) == 3


def test_a_truncated_shard_breaks_off_within_its_line() -> None:
    stream = zlib.decompressobj(wbits=31)
    text = stream.decompress(truncated_shard(FLEET))
    assert not stream.eof and b"\n" not in text and text.startswith(b'{"data_time"')
    assert set(LINE_REASONS) | {Reason.LINE_TOO_LONG, Reason.TRUNCATED_STREAM, Reason.NOT_FINITE} == set(Reason)


def test_config_to_json_and_back() -> None:
    config = replace(FLEET, severity=(0.1, 0.4), faults=("dc_bias",), mains_hz=60)
    assert from_json(FleetConfig, to_json(config)) == config


@pytest.mark.parametrize(
    "wrong",
    [
        {"severity": (0.5, 0.2)},
        {"severity": (0.0, 1.5)},
        {"contamination": 0.995},
        {"num_units": 0},
        {"sample_rate_hz": 4000.0},
        {"faults": ()},
    ],
)
def test_impossible_fleets_are_refused(wrong: dict) -> None:
    with pytest.raises(UserError):
        FleetConfig(**wrong)


# ---------------------------------------------------------------- how hard it is


def test_the_yardstick_finds_it_neither_easy_nor_hopeless() -> None:
    assert 0.8 < difficulty(FleetConfig(num_units=4, sensors_per_unit=2, seed=11), num_pool=480, num_test=160)["all"] < 0.98


@pytest.mark.slow
def test_the_yardstick_over_five_seeds() -> None:
    """The table: python -m tests.reference.b64."""
    figures = {name: float(np.mean(values)) for name, values in table(5).items()}
    assert 0.88 <= figures["all"] <= 0.95
    assert all(0.6 < figures[fault] < 0.99 for fault in FleetConfig().faults)


@pytest.mark.slow
def test_the_yardstick_on_unseen_units() -> None:
    assert 0.88 <= np.mean(table(5, calibrated_on=200)["all"]) <= 0.97
