"""What may go wrong with a transformer, and what only sounds as if: changes of a `Moment`.

A fault has a severity in [0, 1]: 0 is the healthy machine exactly (every change is a factor 1 + c * severity or a sound times severity),
1 a plainly failed one. A disturbance is benign, and comes to healthy and faulty machines alike.
"""

from dataclasses import replace

import numpy as np

from vibray.signal.transformer import EVEN, Moment, Unit, band_noise, factor, ringing, scatter

SHORTED = 0.3
"""Force of the current in the shorted turns, a plainly failed winding's, relative to that of the rated current."""


def winding_looseness(m: Moment, u: Unit, severity: float, rng: np.random.Generator, sample_rate_hz: float) -> Moment:
    """The clamping of the winding has given way.

    Severity scales what it adds to the winding's lines (at 200-1000 Hz about a third of its 2 f0) and the depth of their slow, irregular
    swelling as the conductors shift (1-12 Hz). Both go with the square of the load, so an idle machine hides it.
    """
    swell = np.clip(0.5 * band_noise(rng, 1.0, 12.0, len(m.envelope), sample_rate_hz), -0.9, 2)
    added = 0.33 * np.abs(m.winding[0]) * u.winding_looseness * scatter(rng, 0.3, len(EVEN))
    return replace(m, winding=m.winding + severity * added, envelope=m.envelope * (1 + severity * swell))


def core_looseness(m: Moment, u: Unit, severity: float, rng: np.random.Generator, sample_rate_hz: float) -> Moment:
    """The laminations of the core are no longer pressed together.

    Severity scales the rise of the core's lines between 300 and 1000 Hz (the machine's own choice of them) and a rattle, noise of
    500-2400 Hz that breaks out at the peaks of the flux, twice a mains cycle.
    """
    t = np.arange(len(m.envelope)) / sample_rate_hz
    gate = np.cos(2 * np.pi * m.f0_hz * t + rng.uniform(0, np.pi)) ** 12
    rattle = gate * band_noise(rng, 500.0, 2400.0, len(t), sample_rate_hz) * np.abs(m.core[0])
    rise = 0.8 * u.core_looseness * scatter(rng, 0.3, len(EVEN))
    return replace(m, core=m.core * (1 + severity * rise)).with_sound("core", 0.06 * severity * rattle)


def dc_bias(m: Moment, u: Unit, severity: float, rng: np.random.Generator, sample_rate_hz: float) -> Moment:
    """Direct current in the neutral (a nearby HVDC line, a geomagnetic storm) magnetises the core one way.

    Severity scales the odd multiples of f0 that a symmetric core does not have, and a slight rise of the even ones.
    """
    odd = m.odd + severity * 0.13 * np.abs(m.core[0]) * u.bias * scatter(rng, 0.25, len(u.bias))
    return replace(m, odd=odd, core=m.core * (1 + 0.1 * severity))


def inter_turn_short(m: Moment, u: Unit, severity: float, rng: np.random.Generator, sample_rate_hz: float) -> Moment:
    """A few turns of the winding have lost their insulation, and a current of their own circulates in them.

    Severity scales the force of that current on the winding: lines at 2k f0, falling with k, the machine's own in size and phase. The flux
    drives it, so it goes with the square of the voltage and not with the load: an idle machine shows it best. The contact of the turns
    comes and goes, so the lines flicker at 0.5-4 Hz.
    """
    flicker = np.clip(1 + 0.4 * band_noise(rng, 0.5, 4.0, len(m.envelope), sample_rate_hz), 0, 2)
    rated = np.abs(u.winding[0]) * m.voltage**2 * float(np.any(m.core != 0))
    added = severity * SHORTED * rated * u.short * scatter(rng, 0.2, len(EVEN))
    t = np.arange(len(m.envelope)) / sample_rate_hz
    tone = np.real(added @ np.exp(4j * np.pi * np.outer(np.arange(1, len(EVEN) + 1), m.f0_hz * t)))
    return m.with_sound("winding", flicker * tone)


def tap_changer(m: Moment, u: Unit, severity: float, rng: np.random.Generator, sample_rate_hz: float) -> Moment:
    """Worn contacts and a slack spring of the on-load tap changer: clacks.

    Severity scales the amplitude of one to three groups of hits that ring at the changer's own frequencies (700-3200 Hz).
    """
    num_samples = len(m.envelope)
    groups = rng.uniform(0.02, 0.9, rng.integers(1, 4)) * num_samples / sample_rate_hz
    at_s = np.concatenate([groups, groups + rng.uniform(0.008, 0.03, len(groups)), groups + rng.uniform(0.03, 0.06, len(groups))])
    amplitude = np.repeat([1.0, 0.7, 0.4], len(groups)) * scatter(rng, 0.3, len(at_s))
    return m.with_sound("tap_changer", 1.2 * severity * ringing(at_s, amplitude, u.tap_hz, 0.006, num_samples, sample_rate_hz))


def fan_bearing(m: Moment, u: Unit, severity: float, rng: np.random.Generator, sample_rate_hz: float) -> Moment:
    """A pitted race in a cooling fan's bearing: each passing ball rings the housing.

    Severity scales the noise around the housing's resonance (1.9-3.3 kHz), whose envelope repeats at the bearing's rate (40-90 Hz).
    """
    t = np.arange(len(m.envelope)) / sample_rate_hz
    rate_hz = u.bearing_hz * rng.uniform(0.98, 1.02)
    envelope = np.exp(-4 * ((t * rate_hz + rng.random()) % 1))
    noise = band_noise(rng, u.bearing_band_hz - 250, u.bearing_band_hz + 250, len(t), sample_rate_hz)
    return m.with_sound("fan", 0.11 * severity * envelope * noise)


def rain(m: Moment, u: Unit, rng: np.random.Generator, sample_rate_hz: float) -> Moment:
    """Drops on the tank: noise towards high frequencies, and the larger drops one by one."""
    num_samples = len(m.envelope)
    strength = factor(rng, 0.7)
    at_s = rng.uniform(0, num_samples / sample_rate_hz, rng.integers(10, 60))
    drops = ringing(at_s, 0.04 * strength * scatter(rng, 0.8, len(at_s)), rng.uniform(900, 3500, 2), 0.002, num_samples, sample_rate_hz)
    return replace(m, wash=m.wash | {"rain": 0.02 * strength}).with_sound("outside", drops)


def traffic(m: Moment, u: Unit, rng: np.random.Generator, sample_rate_hz: float) -> Moment:
    """A lorry passes: noise below 100 Hz."""
    return replace(m, wash=m.wash | {"traffic": 0.1 * factor(rng, 0.7)})


def bump(m: Moment, u: Unit, rng: np.random.Generator, sample_rate_hz: float) -> Moment:
    """Someone knocks at the tank, a door slams: one or two dull hits."""
    num_samples = len(m.envelope)
    at_s = rng.uniform(0, 0.9, rng.integers(1, 3)) * num_samples / sample_rate_hz
    signal = ringing(at_s, 0.8 * scatter(rng, 0.6, len(at_s)), rng.uniform(120, 900, 2), 0.02, num_samples, sample_rate_hz)
    return m.with_sound("outside", signal)


def fan_switching(m: Moment, u: Unit, rng: np.random.Generator, sample_rate_hz: float) -> Moment:
    """A group of fans starts or stops within the record: their noise comes or goes over a tenth of a second, with a click."""
    num_samples = len(m.envelope)
    t = np.arange(num_samples) / sample_rate_hz
    at_s, way = rng.uniform(0.1, 0.85) * t[-1], rng.choice([-1.0, 1.0])
    running = 1 / (1 + np.exp(-way * (t - at_s) / 0.03))
    click = ringing(np.array([at_s]), scatter(rng, 0.5, 1), rng.uniform(300, 2500, 2), 0.004, num_samples, sample_rate_hz)
    return m.with_sound("fan", 0.03 * running * band_noise(rng, 150.0, 900.0, num_samples, sample_rate_hz) + 0.3 * click)


FAULTS = {f.__name__: f for f in (winding_looseness, core_looseness, dc_bias, tap_changer, fan_bearing, inter_turn_short)}
DISTURBANCES = {f.__name__: f for f in (rain, traffic, bump, fan_switching)}
