"""Sample rates that recorders have, and what the families of lines of a corpus' sensors say of its rate."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

MAINS_TOLERANCE = 0.01
"""Mains frequencies wander by so much, 0.5 Hz in 50: a rate is known no better from their lines."""

_DOUBLED_HZ = {1000: 8, 1024: 8, 1280: 7, 1600: 7, 2500: 6, 3000: 6, 11_025: 4, 12_500: 4}
USUAL_RATES_HZ = tuple(sorted(float(base << n) for base, times in _DOUBLED_HZ.items() for n in range(times)))
"""Decimal clocks, powers of two, 2.56 samples a hertz of an analyser's span (1280, 1600, ... 25,600 Hz) and sound cards, to 131,072 Hz.
Any two are 2.3 % apart or more, so that within the mains' tolerance one fits or none; with every multiple of 1,000 Hz one would always."""

KIN = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0)
"""A sensor's fundamental over the family's: 2 and more where only each second (third ...) line stands, a half where there are more."""

MIN_RECORDS = 5
"""A family of fewer says nothing."""

OTHER_MAINS_HZ = {50.0: 60.0, 60.0: 50.0}

VOTES = 0.2
"""Where so many of a family's sensors have the stated rate's fundamental, that rate is right: the others show only some of its lines."""


@dataclass(frozen=True)
class Family:
    """Sensors whose lines are multiples of one fundamental."""

    fundamental_hz: float
    sensors: tuple[str, ...]
    """Those whose own fundamental this is."""
    num_kin: int
    """And those whose lines are some of its, or more."""
    num_records: int
    """Of all of them."""
    num_units: int
    """Of `sensors`."""

    def rate_hz(self, stated_hz: float, lowest_hz: float) -> float:
        """The sample rate, if the fundamental is truly `lowest_hz`."""
        return stated_hz * lowest_hz / self.fundamental_hz

    def usual(self, stated_hz: float, lowest_hz: float) -> float | None:
        """That rate, where recorders have it."""
        return usual_rate_hz(self.rate_hz(stated_hz, lowest_hz))

    def may_be(self, expected_hz: float) -> bool:
        """Whether a sensor that shows only some of the expected lines, or more, has this fundamental at the right rate."""
        return any(near(self.fundamental_hz, kin * expected_hz) for kin in KIN)


def usual_rate_hz(rate_hz: float) -> float | None:
    """The rate that recorders have within the mains' tolerance of this one."""
    nearest = min(USUAL_RATES_HZ, key=lambda usual: abs(usual - rate_hz))
    return nearest if near(rate_hz, nearest) else None


def near(a: float, b: float) -> bool:
    """Whether two frequencies (or rates) are the same within the mains' tolerance."""
    return abs(a / b - 1) <= MAINS_TOLERANCE


@dataclass(frozen=True)
class Voice:
    """What the records of one sensor say."""

    unit: str
    fundamental_hz: float
    num_records: int
    """Those that agree."""


def voice(unit: str, found_hz: list[float], num_looked_at: int) -> Voice | None:
    """The median of the most that agree; None where those are not half of the records looked at."""
    if not found_hz:
        return None
    ordered = np.sort(found_hz)
    there = _densest(ordered)
    agreeing = ordered[there]
    return Voice(unit, float(np.median(agreeing)), len(agreeing)) if 2 * len(agreeing) >= num_looked_at else None


def families(voices: Mapping[str, Voice], expected_hz: float) -> list[Family]:
    """The sensors in families, the largest first; in the one at `expected_hz` all that may be of it, where enough are there themselves."""
    left = dict(sorted(voices.items(), key=lambda item: (item[1].fundamental_hz, item[0])))
    expected, kin = _family(left, expected_hz)
    found = []
    if len(expected.sensors) >= max(1, VOTES * expected.num_kin):
        found, left = [expected], {name: left[name] for name in left if name not in kin}
    while left:
        hz = np.array([v.fundamental_hz for v in left.values()])
        family, kin = _family(left, float(np.median(hz[_densest(hz)])))
        found.append(family)
        left = {name: left[name] for name in left if name not in kin}
    return sorted(found, key=lambda family: -family.num_kin)


def _family(voices: Mapping[str, Voice], fundamental_hz: float) -> tuple[Family, set[str]]:
    """The family of this fundamental, and all that may be of it."""
    kin = {name: v for name, v in voices.items() if any(near(v.fundamental_hz, fundamental_hz * times) for times in KIN)}
    own = tuple(sorted(name for name, v in kin.items() if near(v.fundamental_hz, fundamental_hz)))
    median = float(np.median([kin[name].fundamental_hz for name in own])) if own else fundamental_hz
    num_records, units = sum(v.num_records for v in kin.values()), {kin[name].unit for name in own}
    return Family(median, own, len(kin), num_records, len(units)), set(kin)


def _densest(ordered: np.ndarray) -> slice:
    """The longest stretch of ascending values that all lie within the tolerance of its middle."""
    ends = np.searchsorted(ordered, ordered * (1 + 2 * MAINS_TOLERANCE), side="right")
    start = int(np.argmax(ends - np.arange(len(ordered))))
    return slice(start, int(ends[start]))


def against_rate(voices: Mapping[str, Voice], stated_hz: float, mains_hz: float) -> tuple[int, str] | None:
    """How many sensors speak against the stated rate, and the line that says so, with the rates that fit; None where none does."""
    expected_hz = 2 * mains_hz
    found = families(voices, expected_hz)
    right = [f for f in found if near(f.fundamental_hz, expected_hz)]
    # a few sensors whose rate would be no usual one hear another machine's family, or show only some of the lines
    odd = [f for f in found[1:] if f.usual(stated_hz, expected_hz) and not f.may_be(expected_hz)]
    off = [f for f in (*found[:1], *odd) if f not in right and f.num_records >= MIN_RECORDS]
    if not off:
        return None
    said = [f"{_lines_of(f)} instead of {expected_hz:g} Hz: {_rates(f, stated_hz, mains_hz)}" for f in off]
    if right or len(off) > 1:
        more = f"and {len(said) - 3} families more" if len(said) > 3 else None
        said = [f"{_lines_of(f)}, as at {stated_hz:,.0f} Hz" for f in right] + said[:3]
        said[0] = f"the sensors disagree about the sample rate: {said[0]}"
        said += [text for text in (more, "give the sensors of each rate an --input and a --sample-rate-hz of their own") if text]
    else:
        said.append("see what the recorder was set to, then run again into another folder")
    return sum(f.num_kin for f in off), "; ".join(said)


def _lines_of(family: Family) -> str:
    names = ", ".join(family.sensors[:3]) + (" ..." if len(family.sensors) > 3 else "")
    return f"the lines of {names} ({family.num_kin} in all) are multiples of {family.fundamental_hz:.2f} Hz"


def _rates(family: Family, stated_hz: float, mains_hz: float) -> str:
    """The rate that fits, or the rates that may, and what each would mean."""
    expected_hz, other_hz = 2 * mains_hz, 2 * OTHER_MAINS_HZ[mains_hz]
    usual = family.usual(stated_hz, expected_hz)
    unsure = family.may_be(expected_hz)
    # all sensors of one machine may hear 200 Hz best, or its DC bias: a rate twice the stated one needs the word of several
    share, at_least, units = (0.9, 6, 4) if unsure else (0.8, 4, 1)
    own = len(family.sensors)
    many = own >= at_least and own >= share * family.num_kin and family.num_units >= units
    other = near(family.fundamental_hz, other_hz)
    if many and usual and not other:
        return f"the sample rate is {usual:,.0f} Hz rather than {stated_hz:,.0f} Hz (--sample-rate-hz {usual:g})"
    lowest = (expected_hz,) if many or unsure else (expected_hz, 2 * expected_hz, expected_hz / 2)
    rates = ((family.usual(stated_hz, hz), hz) for hz in lowest)
    fits = [f"{rate:,.0f} Hz if the lowest line is truly {hz:g} Hz" for rate, hz in rates if rate]
    if other:
        fits.insert(0, f"{stated_hz:,.0f} Hz as stated if the mains frequency is {other_hz / 2:g} Hz (--mains {other_hz / 2:g})")
    elif unsure and not many:
        more = "the lines between are as strong, as under a DC bias"
        why = "only some of the lines stand" if family.fundamental_hz > expected_hz else more
        fits.insert(0, f"{stated_hz:,.0f} Hz as stated if {why}")
    if not fits:
        exact = family.rate_hz(stated_hz, expected_hz)
        fits.append(f"{exact:,.0f} Hz, which recorders seldom have, if the lines are the mains' at all (else --mains none)")
        if rate := family.usual(stated_hz, other_hz):
            fits.append(f"{rate:,.0f} Hz if the mains frequency is {other_hz / 2:g} Hz (--mains {other_hz / 2:g})")
    return f"the sample rate may be {', or '.join(fits)}"
