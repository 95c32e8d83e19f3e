"""The physics of the synthetic fleet: what a power transformer does at one moment, and what one of its sensors hears of it.

A transformer hums at twice the mains frequency f0 and its multiples: the core by magnetostriction (~ V^2, steeper for the harmonics because
the core saturates), the winding by Lorentz forces (~ I^2, with the phase of the load). Each sensor hears both through its own structural
resonances, which move with the temperature. Everything is seeded by what it is: (seed, unit, sensor, step) is the same on any worker.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Complex, Float

# one real healthy record: amplitude at 2k f0 relative to 2 f0, k = 1..9; the rest continues its decay
EVEN = np.r_[1.0, 0.03, 0.16, 0.05, 0.06, 0.32, 0.09, 0.08, 0.05, 0.04, 0.03, 0.025, 0.02, 0.015, 0.012, 0.01, 0.008, 0.006, 0.005, 0.004]
# the same record at (2k - 1) f0, k = 1..3: mostly stray pick-up
ODD = np.array([0.17, 0.03, 0.03, 0.012, 0.01, 0.008, 0.006, 0.005, 0.004, 0.003])
WINDING = np.array([0.6, 0.05, 0.04, 0.02, 0.012, 0.01, 0.006, 0.004, 0.003, 0.002] + [0.001] * 10)
PATHS = ("core", "winding", "tap_changer", "fan", "outside")
"""Where a sound may come from: each has its own way to each sensor."""

DAY_S = 86_400.0
NUM_MODES = 8


def stream(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """The random numbers that belong to `purpose` and `key`, whoever asks and in whatever order."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, int.from_bytes(purpose.encode(), "little"), *key])))


def phases(rng: np.random.Generator, *shape: int) -> Complex[np.ndarray, "..."]:
    """Unit vectors of random angle."""
    return np.exp(2j * np.pi * rng.random(shape))


def scatter(rng: np.random.Generator, sigma: float, *shape: int) -> Float[np.ndarray, "..."]:
    """Log-normal factors around 1, `sigma` in nepers (.1 is about 10 %)."""
    return np.exp(sigma * rng.standard_normal(shape))


def factor(rng: np.random.Generator, sigma: float) -> float:
    """One such factor."""
    return float(np.exp(sigma * rng.standard_normal()))


def ringing(
    at_s: Float[np.ndarray, " hits"],
    amplitude: Float[np.ndarray, " hits"],
    frequency_hz: Float[np.ndarray, " modes"],
    decay_s: float,
    num_samples: int,
    sample_rate_hz: float,
) -> Float[np.ndarray, " samples"]:
    """Hits that ring at each of `frequency_hz` with equal parts and die away with the time constant `decay_s`."""
    x = np.zeros(num_samples)
    length = min(num_samples, int(8 * decay_s * sample_rate_hz))
    t = np.arange(length) / sample_rate_hz
    tone = np.exp(-t / decay_s) * np.sin(2 * np.pi * np.outer(frequency_hz, t)).mean(axis=0)
    for start, a in zip((at_s * sample_rate_hz).astype(int), amplitude, strict=True):
        part = x[start : start + length]
        part += a * tone[: len(part)]
    return x


def band_noise(
    rng: np.random.Generator, low_hz: float, high_hz: float, num_samples: int, sample_rate_hz: float
) -> Float[np.ndarray, " samples"]:
    """Gaussian noise of RMS 1 (of its expectation) between two frequencies, with soft edges."""
    frequency_hz = np.fft.rfftfreq(num_samples, 1 / sample_rate_hz)
    centre, width = (low_hz + high_hz) / 2, (high_hz - low_hz) / 2
    shape = np.exp(-(((frequency_hz - centre) / width) ** 4))
    z = rng.standard_normal(2 * len(shape)).view(np.complex128) * shape
    return np.fft.irfft(z * num_samples / np.sqrt(4 * np.sum(shape**2)), num_samples)


@dataclass(frozen=True)
class Unit:
    """One transformer: amplitudes in the unit of its 2 f0 line at nominal voltage, and its habits."""

    core: Complex[np.ndarray, " even"]  # at 2k f0, nominal voltage
    core_power: Float[np.ndarray, " even"]  # amplitude ~ V ** power
    core_looseness: Float[np.ndarray, " even"]  # which of its lines a loose core raises
    winding: Complex[np.ndarray, " even"]  # at 2k f0, rated current
    winding_looseness: Complex[np.ndarray, " even"]  # what a loose winding adds, relative to its 2 f0
    odd: Complex[np.ndarray, " odd"]
    bias: Complex[np.ndarray, " odd"]  # what a full DC bias adds at (2k - 1) f0
    load: tuple[float, float, float, float]  # base, daily swing, hour of the peak, fall at the weekend
    slow: Float[np.ndarray, "3 2"]  # periods (days) and phases of the slow part of its load
    voltage: tuple[float, float]  # mean, daily swing
    fan_hz: float  # shaft
    fan_blades: int
    fan_threshold: float  # temperature at which the second group of fans runs
    bearing_hz: float  # rate of a fan's bearing
    bearing_band_hz: float  # its resonance
    tap_hz: Float[np.ndarray, " modes"]  # where its tap changer rings
    short: Complex[np.ndarray, " even"]  # what shorted turns add to the winding's lines, relative to its 2 f0 at rated current


@lru_cache(maxsize=4096)
def unit(seed: int, number: int) -> Unit:
    """Unit `number` of the fleet `seed`."""
    rng = stream(seed, "unit", number)
    k = np.arange(1, len(EVEN) + 1)
    fan_hz = rng.uniform(12, 16)
    return Unit(
        core=EVEN * scatter(rng, 0.45, len(EVEN)) * phases(rng, len(EVEN)),
        core_power=2 + rng.uniform(0.3, 0.7) * (k - 1),
        core_looseness=scatter(rng, 0.5, len(EVEN)) * np.exp(-(((k - 6.5) / 4) ** 4)),
        winding=WINDING * rng.uniform(0.6, 1.4) * scatter(rng, 0.4, len(EVEN)) * phases(rng, len(EVEN)),
        winding_looseness=np.where(k == 1, 2.0, np.exp(-(((k - 6) / 5) ** 4))) * scatter(rng, 0.5, len(EVEN)) * phases(rng, len(EVEN)),
        odd=ODD * scatter(rng, 0.6, len(ODD)) * phases(rng, len(ODD)),
        bias=np.exp(-0.22 * np.arange(len(ODD))) * scatter(rng, 0.4, len(ODD)) * phases(rng, len(ODD)),
        load=(rng.uniform(0.5, 0.7), rng.uniform(0.1, 0.25), rng.uniform(11, 20), rng.uniform(0.05, 0.25)),
        slow=np.stack([rng.uniform(0.7, 12, 3), rng.uniform(0, 2 * np.pi, 3)], axis=1),
        voltage=(rng.uniform(0.99, 1.03), rng.uniform(0.004, 0.012)),
        fan_hz=fan_hz,
        fan_blades=int(rng.integers(5, 9)),
        fan_threshold=rng.uniform(52, 66),
        bearing_hz=fan_hz * rng.uniform(3.4, 5.6),
        bearing_band_hz=rng.uniform(1900, 3300),
        tap_hz=rng.uniform(700, 3200, 3),
        short=np.exp(-0.3 * (k - 1)) * scatter(rng, 0.6, len(EVEN)) * phases(rng, len(EVEN)),  # the last draw: it came later
    )


@dataclass(frozen=True)
class Sensor:
    """One accelerometer: where it sits decides what it hears."""

    gain: float
    direct: Complex[np.ndarray, " paths"]
    modes_hz: Float[np.ndarray, " modes"]
    damping: Float[np.ndarray, " modes"]
    participation: Complex[np.ndarray, "paths modes"]
    floor: float  # RMS of its noise floor
    tilt: float  # of the floor towards low frequencies
    mount_hz: float  # resonance of its mounting
    drift: tuple[float, float, float]  # depth, period (days) and phase of the slow change of its gain


@lru_cache(maxsize=16384)
def sensor(seed: int, unit_number: int, number: int) -> Sensor:
    """Sensor `number` of a unit."""
    rng = stream(seed, "sensor", unit_number, number)
    shape = (len(PATHS), NUM_MODES)
    return Sensor(
        gain=0.1 * factor(rng, 0.4),
        direct=scatter(rng, 0.35, len(PATHS)) * phases(rng, len(PATHS)),
        modes_hz=120 * (3800 / 120) ** rng.random(NUM_MODES),
        damping=rng.uniform(0.015, 0.05, NUM_MODES),
        participation=rng.uniform(0.3, 1.8, shape) * phases(rng, *shape),
        floor=0.06 * factor(rng, 0.3),
        tilt=rng.uniform(0.5, 1.1),
        mount_hz=rng.uniform(2600, 3900),
        drift=(rng.uniform(0.01, 0.06), rng.uniform(5, 60), rng.uniform(0, 2 * np.pi)),
    )


def transfer(s: Sensor, path: str, frequency_hz: Float[np.ndarray, " f"], temperature: float) -> Complex[np.ndarray, " f"]:
    """How a sensor hears a path at each frequency: direct sound and a sum of modes, which a warmer structure lowers (.04 % a kelvin)."""
    p = PATHS.index(path)
    r = frequency_hz[:, None] / (s.modes_hz * (1 - 4e-4 * (temperature - 55)))
    wide = 2j * s.damping * r
    return s.direct[p] + (wide / (1 - r**2 + wide)) @ s.participation[p]


@dataclass(frozen=True)
class Sound:
    """Something heard beside the lines: a time series that enters by a path."""

    path: str
    signal: Float[np.ndarray, " samples"]


@dataclass(frozen=True)
class Moment:
    """What a machine does during one record: the same for all its sensors. Faults and disturbances are changes of this."""

    time_s: float  # since a Monday's midnight
    f0_hz: float
    load: float  # share of the rated current
    voltage: float  # share of the nominal voltage
    temperature: float  # of the structure, degrees Celsius
    core: Complex[np.ndarray, " even"]
    winding: Complex[np.ndarray, " even"]
    odd: Complex[np.ndarray, " odd"]
    fans: int  # groups that run: the first always does on an energised machine
    envelope: Float[np.ndarray, " samples"]  # of the winding's lines over the record
    wash: dict[str, float] = field(default_factory=dict)  # level of broadband noise by kind: fans, rain, traffic
    sounds: tuple[Sound, ...] = ()

    def with_sound(self, path: str, signal: Float[np.ndarray, " samples"]) -> "Moment":
        """The same moment with one sound more."""
        return replace(self, sounds=(*self.sounds, Sound(path, signal)))


def load_at(u: Unit, time_s: float) -> float:
    """Share of the rated current: the hour of the day, the day of the week, the slow business of the week before."""
    base, swing, peak, weekend = u.load
    day = time_s / DAY_S
    daily = np.cos(2 * np.pi * (day - peak / 24)) + 0.35 * np.cos(4 * np.pi * (day - peak / 24 + 0.1))
    resting = weekend if int(day) % 7 >= 5 else 0.0
    slow = 0.04 * np.sin(2 * np.pi * day / u.slow[:, 0] + u.slow[:, 1]).sum()
    return base + swing * daily - resting + slow


def moment(seed: int, unit_number: int, step: int, time_s: float, mains_hz: float, energised: bool, num_samples: int) -> Moment:
    """What the unit does in its record `step`, taken `time_s` seconds after a Monday's midnight; nothing is wrong with it yet."""
    u, rng = unit(seed, unit_number), stream(seed, "moment", unit_number, step)
    day = time_s / DAY_S
    load = float(np.clip(load_at(u, time_s) + 0.05 * rng.standard_normal(), 0.12, 1.15))
    voltage = u.voltage[0] - u.voltage[1] * np.cos(2 * np.pi * (day - u.load[2] / 24)) + 0.006 * rng.standard_normal()
    # the oil follows the load of the last hours
    past = np.mean([load_at(u, time_s - h * 3600) for h in (1, 3, 5)])
    temperature = 35 + 30 * past**2 + 5 * np.cos(2 * np.pi * (day - 15 / 24)) + 1.5 * rng.standard_normal()
    angle = 0.3 + 0.5 * (1 - load) + 0.12 * rng.standard_normal()  # of the current behind the voltage
    grid = 0.012 * np.sin(2 * np.pi * day / np.array([0.31, 0.083, 1.7])).sum()
    fans = 1 + int(temperature + 2 * rng.standard_normal() > u.fan_threshold)
    on = float(energised)
    return Moment(
        time_s=time_s,
        f0_hz=mains_hz + grid + 0.006 * rng.standard_normal(),
        load=load,
        voltage=float(voltage),
        temperature=float(temperature) if energised else 20.0,
        core=on * u.core * voltage**u.core_power * scatter(rng, 0.07, len(EVEN)) * np.exp(0.15j * rng.standard_normal(len(EVEN))),
        winding=on * u.winding * load**2 * np.exp(2j * angle) * scatter(rng, 0.07, len(EVEN)),
        odd=on * u.odd * scatter(rng, 0.25, len(ODD)) * np.exp(0.3j * rng.standard_normal(len(ODD))),
        fans=fans if energised else 0,
        envelope=np.ones(num_samples),
    )


def line_sum(
    frequency_hz: Float[np.ndarray, " lines"], amplitude: Complex[np.ndarray, " lines"], num_samples: int, sample_rate_hz: float
) -> Float[np.ndarray, " samples"]:
    """Sum of |a| cos(2 pi f t + arg a) over the lines below Nyquist, as the product of a coarse and a fine table of time."""
    amplitude = np.where(frequency_hz < 0.47 * sample_rate_hz, amplitude, 0)
    w = 2j * np.pi * frequency_hz / sample_rate_hz
    coarse = np.exp(np.outer(np.arange(0, num_samples, 64), w)) * amplitude
    return np.real(coarse @ np.exp(np.outer(w, np.arange(64)))).reshape(-1)[:num_samples]


@lru_cache(maxsize=1024)
def _floor(s: tuple[int, int, int], num_samples: int, sample_rate_hz: float) -> dict[str, Float[np.ndarray, " bins"]]:
    """Amplitude spectra of RMS 1 of the sensor's own floor and of each kind of broadband noise as it hears it."""
    own, f = sensor(*s), np.fft.rfftfreq(num_samples, 1 / sample_rate_hz)
    mount = 1 + 1.5 / (1 + ((f - own.mount_hz) / 250) ** 2)
    shapes = {
        "floor": (1 + (120 / (f + 5)) ** own.tilt) * mount,
        "fans": np.exp(-np.abs(np.log((f + 1) / 420)) * 1.1) * mount,
        "rain": f / 1500 / (1 + (f / 1500) ** 2) * mount,
        "traffic": np.exp(-f / 45),
    }
    return {name: shape / np.sqrt(np.sum(shape**2)) for name, shape in shapes.items()}


def heard(
    seed: int, unit_number: int, sensor_number: int, step: int, m: Moment, num_samples: int, sample_rate_hz: float
) -> Float[np.ndarray, " samples"]:
    """The waveform, float32, in g, that a sensor records of a moment."""
    u, s = unit(seed, unit_number), sensor(seed, unit_number, sensor_number)
    rng = stream(seed, "record", unit_number, sensor_number, step)
    k = np.arange(1, len(EVEN) + 1)
    even_hz, odd_hz = 2 * k * m.f0_hz, (2 * np.arange(1, len(ODD) + 1) - 1) * m.f0_hz
    blade_hz = u.fan_hz * (1 - 2e-4 * m.temperature) * u.fan_blades * np.arange(1, 4)
    core = m.core * transfer(s, "core", even_hz, m.temperature) * scatter(rng, 0.03, len(EVEN))
    odd = m.odd * transfer(s, "core", odd_hz, m.temperature)
    blades = 0.03 * np.sqrt(m.fans) / np.arange(1, 4) * phases(rng, 3) * np.abs(transfer(s, "fan", blade_hz, m.temperature))
    begun = 2 * np.pi * rng.random()  # phase of the mains when the record began
    turn = np.exp(1j * begun * np.concatenate([2 * k, 2 * np.arange(1, len(ODD) + 1) - 1, np.zeros(3)]))
    lines = np.concatenate([core, odd, blades]) * turn
    x = line_sum(np.concatenate([even_hz, odd_hz, blade_hz]), lines, num_samples, sample_rate_hz)
    winding = m.winding * transfer(s, "winding", even_hz, m.temperature) * scatter(rng, 0.03, len(EVEN))
    x += m.envelope * line_sum(even_hz, winding * turn[: len(EVEN)], num_samples, sample_rate_hz)

    shapes = _floor((seed, unit_number, sensor_number), num_samples, sample_rate_hz)
    levels = {"floor": s.floor * factor(rng, 0.08), "fans": 0.03 * np.sqrt(m.fans) * factor(rng, 0.12), **m.wash}
    power = sum((level * shapes[name]) ** 2 for name, level in levels.items())
    z = rng.standard_normal(2 * (num_samples // 2 + 1)).view(np.complex128)
    spectrum = 0.5 * num_samples * np.sqrt(power) * z
    if m.sounds:
        f = np.fft.rfftfreq(num_samples, 1 / sample_rate_hz)
        for path in dict.fromkeys(sound.path for sound in m.sounds):
            total = np.sum([sound.signal for sound in m.sounds if sound.path == path], axis=0)
            spectrum = spectrum + np.fft.rfft(total) * transfer(s, path, f, m.temperature)
    depth, period, phase = s.drift
    gain = s.gain * (1 + depth * np.sin(2 * np.pi * m.time_s / DAY_S / period + phase)) * factor(rng, 0.02)
    return (gain * (x + np.fft.irfft(spectrum, num_samples))).astype(np.float32)
