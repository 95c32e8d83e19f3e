"""What is a number, and which samples are a waveform: rails, offsets and amplitudes that float32 does not carry."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import records as twin
from vibray.schema import Reason
from vibray.storage.corpus import CorpusFacts
from vibray.storage.records import BadRecord, Record, parse_line, parse_object
from vibray.storage.samples import LARGEST, MIN_STEPS, SMALLEST, Refused, numbers_of, waveform_of

N = 8192
RATE_HZ = 8192.0
TIME_S = np.arange(N) / RATE_HZ
RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=N)
BITS = (np.arange(N) * 7919 % 13 < 5).astype(float)


def verdict(samples: np.ndarray) -> tuple[str, str]:
    """Reason and detail; "record" where it is one. The same from a line, by the shortcut and without, and from an item of a list."""
    facts = CorpusFacts(RATE_HZ, len(samples))
    value = {"data_time": "2023-01-01T00:00Z", "sensor_id": "s", "signal_value": samples.tolist()}
    text = {**value, "signal_value": ",".join(map(repr, samples.tolist()))}
    plus = {**value, "signal_value": ",".join(f"{x:+.17g}" for x in samples.tolist())}  # json has no plus: the shortcut does not take it
    found = [parse_line(json.dumps(line).encode(), "k", 0, 1, "c", facts) for line in (value, text, plus)]
    found.append(parse_object(value, "k", 0, "c", facts))
    told = {(str(row.reason), row.detail) if isinstance(row, BadRecord) else ("record", row.content_hash) for row in found}
    assert len(told) == 1, told
    [(reason, detail)] = told
    return reason, detail if reason != "record" else ""


# ---- numbers


@pytest.mark.parametrize("item", ["1", "-1", "+1", "1.", ".5", "-.5e-3", "1E+05", "007", " 1", "1 ", "\t1\n", "\v1\f"])
def test_decimal_literals_with_ascii_blanks_around_are_numbers(item):
    assert numbers_of(f"{item},2").tolist() == [float(item), 2.0]


@pytest.mark.parametrize(
    ("item", "shown"),
    [
        ("1_000", "'1_000'"),
        ("１", "'\\uff11'"),
        ("٣", "'\\u0663'"),
        ("\u30001", "'\\u30001'"),
        ("1\u00a0", "'1\\xa0'"),
        ("1\u2009", "'1\\u2009'"),
        ("\x1c1", "'\\x1c1'"),
        ("−1", "'\\u22121'"),
        ("0x10", "'0x10'"),
        ("1d3", "'1d3'"),
        ("1e", "'1e'"),
        ("--1", "'--1'"),
        ("1.2.3", "'1.2.3'"),
        ("", "''"),
        (" ", "' '"),
        ("1.5 2.5", "'1.5 2.5': commas part samples, a point begins decimals"),
        ("5;2", "'5;2': commas part samples, a point begins decimals"),
        ("1\t2\t3", "'1\\t2\\t3': commas part samples, a point begins decimals"),
        ("nano", "'nano'"),
        ("ınf", "'\\u0131nf'"),
    ],
)
def test_what_is_no_number_is_shown_with_its_place(item, shown):
    for text in (f"0.5,{item},3", f"nan,{item},3", f"[0.5,{item},3]"):
        with pytest.raises(Refused) as refused:
            numbers_of(text)
        assert (refused.value.reason, refused.value.detail) == (Reason.NOT_A_NUMBER, f"sample 1 is {shown}")


@pytest.mark.parametrize("text", ["\u30001,2\u3000", "1,2,", ",,", "1,5;2,5", "1.5 2.5"])
def test_siblings(text):
    with pytest.raises(Refused) as refused:
        numbers_of(text)
    assert refused.value.reason == Reason.NOT_A_NUMBER


@pytest.mark.parametrize("word", ["nan", "NaN", "-nan", "inf", "-Infinity", " INF ", "1e400"])
def test_words_that_are_no_amplitude(word):
    with pytest.raises(Refused) as refused:
        numbers_of(f"1,{word},{word}")
    assert (refused.value.reason, refused.value.detail) == (Reason.NAN_OR_INFINITE, f"sample 1 is {float(word)} (2 in all)")


def test_integers_beyond_any_float_keep_their_sign():
    with pytest.raises(Refused) as refused:
        numbers_of([1, -(10**400)])
    assert refused.value.detail == "sample 1 is -inf (1 in all)"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text("0123456789+-.eE_ nainf;\t\u00a0\uff11", max_size=6), min_size=1, max_size=4))
def test_a_text_is_numbers_where_each_item_is_one(items):
    """Against the rule written out: an ASCII literal, which float() takes, without underscore."""

    def number(item: str) -> bool:
        bare = item.strip(" \t\n\r\f\v")
        try:
            return bare.isascii() and "_" not in bare and math.isfinite(float(bare))
        except ValueError:
            return False

    text = ",".join(items)
    try:
        found = numbers_of(text).tolist()
    except Refused:
        found = None
    if not text.strip(" \t"):
        assert found == []
    else:
        assert (found is not None) == all(number(item) for item in items)
        assert found in (None, [float(item) for item in items if number(item)])


# ---- rails


def clipped_line(frequency_hz: float, share: float, offset: float = 0.0) -> np.ndarray:
    """A sine cut off so that this share of it is at the rails."""
    rail = math.cos(math.pi / 2 * share)
    return np.clip(np.sin(2 * np.pi * frequency_hz * TIME_S + 0.1), -rail, rail) + offset


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("shape", ["both", "one", "with noise", "in counts", "off centre"])
def test_a_line_that_is_cut_off_at_short_tops_is_clipped(shape, sign):
    x = clipped_line(1230.0, 0.43)
    assert 0.38 < np.mean(np.abs(x) == x.max()) < 0.48
    assert max(twin.run_lengths(x, x.max())) <= 6
    match shape:
        case "one":
            x = np.maximum(x, 3 * x)  # the lower half goes on
        case "with noise":
            x = np.clip(x + 0.05 * NOISE, x.min(), x.max())
        case "in counts":
            x = np.round(100 * x)
        case "off centre":
            x = x + 5.0
    reason, detail = verdict(sign * x)
    assert reason == "clipped", detail
    assert "of the samples at" in detail
    assert twin.is_clipped((sign * x).astype(np.float32))


def quantised(amplitude: float) -> np.ndarray:
    return np.round(amplitude * np.sin(2 * np.pi * 97.3 * TIME_S))


@pytest.mark.parametrize(
    "x",
    [
        np.round(0.4 * NOISE).clip(-1, 1),
        BITS,
        np.round(1.2 * NOISE).clip(-3, 3),
        *(quantised(a) for a in (8.0, 9.51, 10.0, 10.49, 20.49, 127.0)),
        *(quantised(a) + 512 for a in (10.0, 10.49)),
        np.where(np.arange(N) % 16 < 12, 0.0, np.abs(NOISE)),
        -np.where(np.arange(N) % 16 < 12, 0.0, np.abs(NOISE)),
        np.maximum(np.sin(2 * np.pi * 1230.0 * TIME_S), 0.0),
        NOISE,
        np.repeat(NOISE[: N // 8], 8),
        np.round(np.linspace(-20, 20, N) + 5 * np.sin(2 * np.pi * 100 * TIME_S)),
        clipped_line(1230.0, 0.03),
    ],
    ids=lambda x: f"{len(np.unique(x))} values {np.mean(x == x.max()):.2f}",
)
def test_what_is_not_clipped(x):
    assert verdict(x) == ("record", "")
    assert not twin.is_clipped(x.astype(np.float32))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.2, 3.0), st.sampled_from([1.0, 0.5, 0.01]), st.floats(-1, 1))
def test_rails_are_those_of_the_twin(seed, rail, step, offset):
    rng = np.random.default_rng(seed)
    x = np.round(np.clip(rng.normal(size=300) + offset, -rail, rail) / step) * step
    if x.min() < x.max():
        assert (verdict(x)[0] == "clipped") == twin.is_clipped(x.astype(np.float32))


# ---- amplitudes


@pytest.mark.parametrize("sign", [1, -1])
def test_samples_beyond_the_fourth_power_of_float32(sign):
    x = NOISE.copy()
    x[[70, 90]] = sign * 2.0**32, sign * 1e30
    assert verdict(x) == ("out of range", f"sample 70 is {x[70]} (2 in all): less than 2**32 is wanted")
    x[[70, 90]] = sign * np.nextafter(np.float32(2.0**32), np.float32(0))
    assert verdict(x) == ("record", "")
    with np.errstate(over="ignore"):
        assert np.isfinite(np.float32(x[70]) ** 4) and np.isinf(np.float32(LARGEST) ** 4)


@pytest.mark.parametrize("amplitude", [1e-13, 1e-25, 1e-44, 1e-60, 1e-300])
def test_samples_below_what_a_feature_adds_to_each(amplitude):
    reason, detail = verdict(amplitude * NOISE / np.ptp(NOISE))
    at = int(np.argmax(np.abs(NOISE)))
    assert reason == "out of range" and detail.startswith(f"sample {at} is the largest, ") and "smaller unit" in detail
    assert verdict(1.01 * SMALLEST * NOISE / np.ptp(NOISE)) == ("record", "")


def test_counts_of_32_bits():
    counts = np.round(50 * np.sin(2 * np.pi * 100 * TIME_S)) + 2.0**31
    reason, detail = verdict(counts)
    assert reason == "precision lost"
    assert detail == "samples spread over 100 about 2147483648, where float32 has steps of 256: subtract the offset"
    assert verdict(counts - 2.0**31) == ("record", "")
    assert verdict(np.round(20_000 * np.sin(2 * np.pi * 100 * TIME_S)) + 2.0**31) == ("record", "")
    assert verdict(np.full(N, 2.0**31)) == ("constant", "all samples are 2147483648.0")


@pytest.mark.parametrize("offset", [1.0, -9.81, 1e6, 2.0**31, -3e9, 1e-6])
def test_so_few_steps_lose_precision_and_more_do_not(offset):
    step = float(np.spacing(np.float32(abs(offset))))
    sine = np.sin(2 * np.pi * 97.3 * TIME_S) / 2
    inward = offset - np.sign(offset) * step * MIN_STEPS  # so that no sample has another step
    inward = inward if np.spacing(np.float32(abs(inward))) == step else offset + np.sign(offset) * step * MIN_STEPS
    few, many = (inward + steps * step * sine for steps in (MIN_STEPS - 1.5, MIN_STEPS + 1.5))
    assert verdict(few)[0] == "precision lost"
    assert verdict(many) == ("record", "")
    rounding = many.astype(np.float32) - many
    assert rounding.std() / np.ptp(many) < 0.0095  # 1 / (32 sqrt(12)): what the bound promises


def test_few_levels_that_float32_carries_lose_nothing():
    """A quiet sensor with an offset: what it says is not changed by rounding."""
    for levels in (
        8_000_000 + np.round(0.4 * NOISE).clip(-1, 1),
        2.0**31 + 256 * np.round(0.4 * NOISE).clip(-1, 1),
        1 + 2.0**-20 * BITS,
    ):
        assert verdict(levels) == ("record", "")


def test_padding_is_not_judged():
    facts = CorpusFacts(RATE_HZ, N, wrong_length="fit")
    value = {"data_time": "2023-01-01T00:00Z", "sensor_id": "s", "signal_value": (NOISE[:100] + 5).tolist()}
    assert isinstance(parse_line(json.dumps(value).encode(), "k", 0, 1, "c", facts), Record)
    value["signal_value"] = [*NOISE.tolist(), 1e30]  # cut off
    assert isinstance(parse_line(json.dumps(value).encode(), "k", 0, 1, "c", facts), Record)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-3, 3).map(float), min_size=1, max_size=12))
def test_any_numbers_are_a_finite_waveform_or_refused(numbers):
    try:
        found = waveform_of(np.array(numbers))
    except Refused as refused:
        assert refused.detail
        return
    assert found.dtype == np.float32 and np.isfinite(found.astype(np.float32) ** 4).all()
    assert np.ptp(found) >= 0.99 * SMALLEST
