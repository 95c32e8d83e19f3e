"""A run's records explained: where the energy behind the score is, what moved, which parts spoke, what it is like. No Ray."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vibray.explain.attribution import integrated_gradients, standing_out
from vibray.explain.residual import cone_of_influence, residual_map
from vibray.explain.time_frequency import over_time, plane, plane_hz
from vibray.explain.vector import DB, groups, looked_at
from vibray.explain.words import Language, Sign, sentences, signs, text, title
from vibray.features.band_image import BandImageConfig
from vibray.features.cwt_image import CwtImageConfig
from vibray.features.scaling import Scaling, Sensor
from vibray.features.seed_image import SeedImageConfig
from vibray.features.spectral import Spectral
from vibray.models.band_transformer import BandTransformer
from vibray.models.fused import Fused
from vibray.models.isolation_forest import IsolationForestConfig
from vibray.models.vae import Vae
from vibray.recipes.building import build_image, build_vector, columns_of
from vibray.recipes.kinds import ClassicalRecipe, ImageConfig
from vibray.report.data import Bars, Explanation, Map, Nearest, Sentences, Spectrum
from vibray.runs.inputs import Inputs
from vibray.runs.models import Detecting, Diagnosing, Fusing, Naming
from vibray.runs.run import CHUNK, Run
from vibray.signal.cwt import OMEGA0
from vibray.storage.corpus import CorpusFacts

SHOWN_COLUMNS = 8
NUM_NEAREST = 3

RANGE = 1.6449
"""Standard deviations from a Gaussian's median to its 5 % and 95 % quantiles."""

SIGMA_CYCLES = {"cwt_image": OMEGA0 / (2 * math.pi), "seed_image": 0.8125}
"""Width of an image's wavelet in periods of its row: pywt's morl is exp(-t^2 / 2) cos 5t in scales, its centre frequency 0.8125."""

WithFrequencies = CwtImageConfig | SeedImageConfig | BandImageConfig
"""Images whose rows stand at a frequency, so that a map over them can be drawn."""


@dataclass(frozen=True)
class Records:
    """Records with their waveforms; the labels of those that a person has judged."""

    waveforms: Float[Tensor, "batch samples"]
    sensors: Sequence[Sensor]
    record_ids: list[str]
    labels: tuple[str, ...] = ()


def explained(run: Run, records: Records, labelled: Records | None = None, language: Language = "en") -> list[list[Explanation]]:
    """What is to be said of each record's score, by each detector or the classifier that the run holds.

    Each is told which of the `labelled` are like it, itself not among them.
    """
    inputs, sensors = Inputs(records.waveforms, run.facts), records.sensors
    made: list[list[Any]] = []
    for name, member in run.model.members.items() if isinstance(run.model, Fusing) else [("", run.model)]:
        model = member.detecting if isinstance(member, Naming) else member
        if isinstance(model, Diagnosing):
            made += _of_classifier(model, inputs, sensors, language)
        elif isinstance(model, Detecting) and isinstance(model.recipe, ClassicalRecipe):
            if model.scaling.config.by != "none":  # without a baseline nothing can have moved
                made += _of_vector(name, model, inputs, sensors, language)
        elif isinstance(model, Detecting):
            made += _of_image(name, model, inputs, sensors, language)
    if labelled is not None and labelled.labels:
        made.append(_nearest(run, inputs, records, labelled, language))
    return [_once(own) for own in zip(*made, strict=True)] if made else [[] for _ in sensors]


def _once(made: Sequence[Explanation | None]) -> list[Explanation]:
    """What is there, the spectrum and the words once: they are the record's own, whichever member asks."""
    kept: list[Explanation] = []
    for each in made:
        if each is not None and not (isinstance(each, Spectrum | Sentences) and any(type(each) is type(other) for other in kept)):
            kept.append(each)
    return kept


# ---------------------------------------------------------------- detectors on a vector


def _of_vector(name: str, member: Detecting, inputs: Inputs, sensors: Sequence[Sensor], language: Language) -> list[list[Any]]:
    recipe, facts = member.recipe, inputs.facts
    assert isinstance(recipe, ClassicalRecipe) and not isinstance(member.detector, nn.Module)
    feature, rate_hz = build_vector(recipe.feature, facts.mains_hz), facts.sample_rate_hz
    raw = inputs[recipe.feature]
    columns = columns_of(feature, recipe.detector.blocks)
    x = member.scaling(raw, sensors)[:, columns]
    forest = isinstance(recipe.detector, IsolationForestConfig)  # its score has steps and no gradient
    shares = torch.zeros(x.shape, dtype=torch.float64) if forest else integrated_gradients(member.detector.score, x.double())
    moved, _ = _moved(member.scaling, raw, sensors)
    hz, names = feature.frequencies_hz(rate_hz), feature.columns()
    made: list[list[Any]] = []
    if member.scaling.config.transform == "none":  # the columns are logarithms as the feature has them
        told = looked_at(feature, rate_hz)
        rows_hz = plane_hz(rate_hz, facts.num_samples)[1]
        where = over_time(shares, moved[:, columns], [told[i] for i in columns], plane(inputs.waveforms, rate_hz), rows_hz)
        heading, duration_s = title("attribution", language, name), facts.num_samples / rate_hz
        made.append([Map(heading, values.numpy(), rows_hz, duration_s) if values.any() else None for values in where])
        if isinstance(feature, Spectral):
            block = feature.blocks["octaves"]
            location, spread = (t[:, block] for t in member.scaling.baselines(sensors))
            octaves_hz = cast(tuple[float, ...], hz[block])
            made.append(_spectra((raw[:, block], location, spread), 1, octaves_hz, member.scaling, sensors, facts.signal_unit, language))
            told_by = signs_of(member, inputs.waveforms, sensors, facts, raw)
            made.append([Sentences(text("words", language), sentences(own, language)) for own in told_by])
    if isinstance(member.detector, Fused):
        parts = [block for block in recipe.detector.blocks if columns_of(feature, (block,))]
        parts += [text("net", language)] * (member.detector.scorer is not None)
        made.append([_parts(parts, own, language) for own in member.detector.surprise(x).T.numpy()])
    named = [names[i] + ("" if hz[i] is None else f" ({hz[i]:.4g} Hz)") for i in columns]
    made.append([_largest(title("shares", language, name), named, own) if own.any() else None for own in shares.numpy()])
    return made


def _moved(scaling: Scaling, raw: Tensor, sensors: Sequence[Sensor]) -> tuple[Tensor, Tensor]:
    """Each value less its sensor's median, before any limit, and the sensor's spread, (batch, columns) both; the fleet's where the
    scaling has no others."""
    location, scale = scaling.baselines(sensors)
    return (scaling.transformed(raw) - location).double(), scale.double()


def _spectra(
    levels: tuple[Tensor, Tensor, Tensor],
    order: int,
    hz: Sequence[float],
    scaling: Scaling,
    sensors: Sequence[Sensor],
    unit: str,
    language: Language,
) -> list[Spectrum]:
    """Bands of each record over what is usual, in dB; `levels`: value, location and scale in nepers of power (1) or of amplitude (2)."""
    value, location, scale = (DB * order * t.double().numpy() for t in levels)
    own = scaling.known(sensors) & (scaling.config.by == "sensor")
    titles = [
        text("spectrum", language, count=f"{scaling.counts[sensor]:,}") if known else text("fleet_spectrum", language)
        for sensor, known in zip(sensors, own, strict=True)
    ]
    what = "dB" if unit == "unknown" else f"dB re 1 {unit}"
    low, high = location - RANGE * scale, location + RANGE * scale
    rows = zip(titles, value, low, location, high, strict=True)
    return [Spectrum(heading, tuple(hz), own, below, middle, above, what) for heading, own, below, middle, above in rows]


def signs_of(
    member: Detecting, waveforms: Float[Tensor, "batch samples"], sensors: Sequence[Sensor], facts: CorpusFacts, raw: Tensor | None = None
) -> list[tuple[Sign, ...]]:
    """What moved in each record, by the spectral vector of a detector (`raw`, where it is made already) and its sensors' baselines."""
    feature = build_vector(cast(ClassicalRecipe, member.recipe).feature, facts.mains_hz)
    assert isinstance(feature, Spectral)
    raw = feature(waveforms, facts.sample_rate_hz) if raw is None else raw
    moved, scale = _moved(member.scaling, raw, sensors)
    each = zip(moved.numpy(), (moved / scale).numpy(), strict=True)
    return [signs(groups(feature, facts.sample_rate_hz, own, z)) for own, z in each]


def _parts(names: Sequence[str], surprise: np.ndarray, language: Language) -> Bars:
    """Each part's own tail probability p, as -log10 p and as 1 in 1 / p."""
    told = [(text("rare", language, name=name, count=_count(s)), s / math.log(10)) for name, s in zip(names, surprise, strict=True)]
    told.sort(key=lambda each: -each[1])
    return Bars(text("parts", language), tuple(name for name, _ in told), tuple(float(value) for _, value in told))


def _count(surprise: float) -> str:
    return f"{math.exp(surprise):,.0f}" if surprise < math.log(1e6) else "1,000,000+"


def _largest(heading: str, names: list[str], shares: np.ndarray) -> Bars:
    order = np.argsort(-np.abs(shares), kind="stable")[:SHOWN_COLUMNS]
    return Bars(heading, tuple(names[i] for i in order), tuple(float(shares[i]) for i in order))


# ---------------------------------------------------------------- nets on an image


def _of_image(name: str, member: Detecting, inputs: Inputs, sensors: Sequence[Sensor], language: Language) -> list[list[Any]]:
    config, net = member.recipe.feature, cast(Any, member.detector)
    if not isinstance(config, WithFrequencies):  # the other images have no frequency axis to draw on
        return []
    x = member.scaling(inputs[config], sensors)
    if isinstance(net, Vae):
        rows_hz, duration_s = _rows_hz(config, inputs), inputs.facts.num_samples / inputs.facts.sample_rate_hz
        sigma = SIGMA_CYCLES.get(config.kind)
        ends = None if sigma is None else cone_of_influence(rows_hz, sigma, x.shape[-1], duration_s)
        made = [_maps(title("residual", language, name), config, standing_out(residual_map(net, x, ends)), inputs)]
    elif isinstance(net, BandTransformer):
        made = [_maps(title("deviation", language, name), config, x.abs().mean(dim=1), inputs)]
    else:
        shares = standing_out(risen_shares(lambda at: net.score(net(at)), x))
        made = [_maps(title("highest", language, name), config, shares, inputs)]
    if isinstance(config, CwtImageConfig) and (member.scaling.config.transform, member.scaling.config.per) == ("log", "row"):
        # over time the median of the area means; the range is that of single cells, which is wider
        rows = member.scaling.transformed(inputs[config])[:, 0].median(dim=-1).values
        location, spread = (t[:, 0, :, 0] for t in member.scaling.baselines(sensors))
        levels = rows, location, spread
        made.append(_spectra(levels, 2, _rows_hz(config, inputs), member.scaling, sensors, inputs.facts.signal_unit, language))
    return made


def risen_shares(score: Callable[[Tensor], Tensor], x: Float[Tensor, "batch channels rows columns"]) -> Float[Tensor, "batch rows columns"]:
    """The shares that an image's cells above their sensor's median have in the score, summed over the channels."""
    return (integrated_gradients(score, x) * (x > 0)).sum(dim=1)


def _of_classifier(model: Diagnosing, inputs: Inputs, sensors: Sequence[Sensor], language: Language) -> list[list[Any]]:
    """Shares in the logit of "abnormal", and where a fault is named in that fault's; of what the net is given beside the image as it is."""
    config, net = model.recipe.image, model.net
    if not isinstance(config, WithFrequencies) or model.image_scaling is None:
        return []
    x = model.image_scaling(inputs[config], sensors)
    beside = None
    if model.recipe.vector is not None and model.vector_scaling is not None:
        beside = model.vector_scaling(inputs[model.recipe.vector], sensors)

    def logits(at: Tensor) -> Any:
        return net(at if beside is None else (at, beside))

    with torch.no_grad():
        number = net.diagnose(logits(x)).fault
    shares = standing_out(risen_shares(lambda at: logits(at).abnormal, x))
    made = [_maps(title("highest", language, text("abnormal", language)), config, shares, inputs)]
    if net.num_faults and bool((number >= 0).any()):
        of_fault = standing_out(risen_shares(lambda at: logits(at).fault.gather(1, number.clamp(min=0)[:, None])[:, 0], x))
        names = [title("highest", language, model.faults[n] if n >= 0 else "") for n in number.tolist()]
        maps = _maps("", config, of_fault, inputs)
        made.append([Map(t, m.values, m.rows_hz, m.duration_s) if n >= 0 else None for t, m, n in zip(names, maps, number, strict=True)])
    return made


def _rows_hz(config: ImageConfig, inputs: Inputs) -> tuple[float, ...]:
    return tuple(cast(Any, build_image(config, inputs.facts.mains_hz)).rows_hz(inputs.facts.sample_rate_hz))


def _maps(heading: str, config: ImageConfig, values: Tensor, inputs: Inputs) -> list[Any]:
    rows_hz, duration_s = _rows_hz(config, inputs), inputs.facts.num_samples / inputs.facts.sample_rate_hz
    return [Map(heading, own.numpy(), rows_hz, duration_s) for own in values.detach()]


# ---------------------------------------------------------------- labelled records


def _nearest(run: Run, inputs: Inputs, records: Records, labelled: Records, language: Language) -> list[Nearest | None]:
    """The labelled records that lie nearest to each."""
    chunks = zip(labelled.waveforms.split(CHUNK), range(0, len(labelled.labels), CHUNK), strict=True)
    others = torch.cat([_points(run, Inputs(w, run.facts), labelled.sensors[i : i + CHUNK]) for w, i in chunks])
    distance = torch.cdist(_points(run, inputs, records.sensors), others)
    itself = np.array(records.record_ids)[:, None] == np.array(labelled.record_ids)[None]
    distance[torch.from_numpy(itself)] = torch.inf
    made: list[Nearest | None] = []
    for own in distance:
        order = [i for i in own.argsort(stable=True)[:NUM_NEAREST].tolist() if own[i] < torch.inf]
        near = tuple((labelled.record_ids[i], labelled.labels[i], float(own[i])) for i in order)
        made.append(Nearest(text("nearest", language), near) if near else None)
    return made


def _points(run: Run, inputs: Inputs, sensors: Sequence[Sensor]) -> Float[Tensor, "batch dims"]:
    """Scaled values of all that the run reads, an image's averaged over time; their distance is a root mean square."""
    scaled = [scaling(inputs[config], sensors) for config, scaling in run.model.scalings().values()]
    flat = [(x if x.ndim == 2 else x.mean(-1).flatten(1)).double() for x in scaled]
    return torch.cat([x / math.sqrt(x.shape[1]) for x in flat], dim=1) / math.sqrt(len(flat))
