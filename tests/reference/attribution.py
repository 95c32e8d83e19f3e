"""How much of what is drawn as the reason of a score lies where the generator planted the fault, and how often the words name it.

`python -m tests.reference.attribution [--seeds 0 1 2] [--records 240] [--nets]` fits the default, and with --nets cwt-svdd (as deep-sad is
without labels) and cwt-vae, on 1,920 records of 8 generated units with 5 % of faults, and explains later records with a DC bias or a worn
tap changer of severity .5 to 1. The planted mask of a record are the 15 % of its image's cells (5 %, too) that differ most from the same
moment without the fault: of the default's plane by amplitude, of a net's image as it is scaled. Printed is the share of records of which
half the positive attribution or more lies in the mask, and the median of what lies in it: of all, and of those above 95 % of the healthy
twins' scores.
For the nets beside what is drawn (the highest tenth of integrated gradients of the cells that rose, or of the residual) the ways that were
tried: integrated gradients of all cells, of those that rose, the sums of these over bands and over time, occlusion by bands and time; of
the VAE the whole residual.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vibray import recipes
from vibray.compare.corpus import Task
from vibray.compare.fold_fit import fit_fold
from vibray.explain.attribution import integrated_gradients, standing_out
from vibray.explain.residual import residual_map
from vibray.explain.time_frequency import plane
from vibray.features.scaling import Sensor
from vibray.fitting.classical import fit_parts
from vibray.fitting.worker import alone_with
from vibray.recipes.building import build_image, build_vector
from vibray.recipes.kinds import ClassicalRecipe, DeepRecipe
from vibray.report.data import Map
from vibray.runs.explained import Records, explained, signs_of
from vibray.runs.models import Detecting
from vibray.runs.run import Run
from vibray.schema import NORMAL
from vibray.signal.synthetic import Condition, FleetConfig, condition, place, waveform
from vibray.storage.corpus import CorpusFacts
from vibray.tables.training import TrainingTable
from vibray.train.classical import Rows

FACTS = CorpusFacts(8192.0)
PLANTED = ("dc_bias", "tap_changer")
CONTEXT = 64
"""Records that calibrate a sensor of units unseen."""
FAMILY = {
    "dc_bias": {"dc_bias"},
    "core_looseness": {"looseness", "noise"},
    "winding_looseness": {"looseness", "swelling"},
    "tap_changer": {"impacts"},
    "fan_bearing": {"noise", "impacts"},
}


def made(config: FleetConfig, what: Condition | None = None) -> tuple[Tensor, list[Sensor], np.ndarray]:
    """Waveforms, sensors and faults of a fleet's records, as they are or all under one condition."""
    places = [place(config, i) for i in range(config.num_records)]
    waveforms = np.stack([waveform(config, at, what) for at in places])
    faults = np.array([condition(config, at).fault or NORMAL for at in places])
    return torch.from_numpy(waveforms), [(f"u{at.unit}", f"u{at.unit}-s{at.sensor}") for at in places], faults


def pool_of(seed: int) -> FleetConfig:
    return FleetConfig(seed=seed, num_units=8, num_records=1920)


def faulty(pool: FleetConfig, num_records: int, unseen: bool = False) -> FleetConfig:
    """Later records of the pool's units, or of others, with one of the two faults each."""
    own = replace(pool, num_records=num_records, first_step=200, first_unit=pool.num_units if unseen else 0)
    return replace(own, contamination=1.0, off_share=0.0, faults=PLANTED, severity=(0.5, 1.0))


def fitted_vector(recipe: ClassicalRecipe, waveforms: Tensor, sensors: list[Sensor]) -> Detecting:
    """A classical recipe on these records."""
    feature = build_vector(recipe.feature, FACTS.mains_hz)
    keys = np.random.default_rng(0).permutation(len(sensors)).astype(np.uint64)
    rows = Rows(feature(waveforms, FACTS.sample_rate_hz), sensors, keys)
    scaling, detector, _ = fit_parts(recipe, FACTS.mains_hz, [rows], lambda part: part)
    return Detecting(recipe, scaling, detector, torch.zeros(2))


def fitted_net(recipe: DeepRecipe, waveforms: Tensor, sensors: list[Sensor], corpus: str) -> Detecting:
    """A deep recipe on these records. `corpus`: a name that no other records of this process have, or their images would be taken."""
    every, nothing = np.arange(len(sensors)), np.zeros(len(sensors), bool)
    units, names = zip(*sensors, strict=True)
    index = pa.table({"corpus": [corpus] * len(sensors), "record_id": every.astype(str), "unit": units, "sensor_id": names})
    table = TrainingTable(FACTS, {}, {}, index, (), 0 * every, every, nothing, ~nothing, 0)
    task = Task(table, {}, waveforms.numpy(), every, every[:0], every[:0], every[:0], np.empty(0, object), 0)
    with alone_with(table, task.waveforms) as worker:
        return fit_fold(worker, recipe, task).fit.detecting


def planted(with_fault: Tensor, without: Tensor, share: float) -> Tensor:
    """(records, cells) bool: the cells (of a batch of images) that differ most, so large a share of them."""
    difference = (with_fault - without).abs().flatten(1)
    least = difference.kthvalue(difference.shape[1] - int(share * difference.shape[1]), dim=1, keepdim=True).values
    return difference > least


def inside(values: Tensor, mask: Tensor) -> np.ndarray:
    """Share of each record's positive values that lies in its mask."""
    positive = values.flatten(1).double().clamp(min=0)
    return ((positive * mask).sum(1) / positive.sum(1).clamp(min=1e-300)).numpy()


def drawn(run: Run, waveforms: Tensor, sensors: list[Sensor]) -> Tensor:
    """The maps that a report draws."""
    told = explained(run, Records(waveforms, sensors, [str(i) for i in range(len(sensors))]))
    maps = [next((each for each in own if isinstance(each, Map)), None) for own in told]
    shape = next(m.values.shape for m in maps if m is not None)
    return torch.from_numpy(np.stack([np.zeros(shape) if m is None else np.asarray(m.values) for m in maps]))


def occlusion(score: Callable[[Tensor], Tensor], x: Tensor, rows: int, columns: int) -> Tensor:
    """What a score loses where a block of so many rows and columns is put to its sensor's median, spread over the block's cells."""
    lost = torch.zeros(len(x), *x.shape[2:])
    with torch.no_grad():
        whole = score(x)
        for i in range(0, x.shape[2], rows):
            for j in range(0, x.shape[3], columns):
                without = x.clone()
                without[:, :, i : i + rows, j : j + columns] = 0
                block = lost[:, i : i + rows, j : j + columns]
                block += (whole - score(without))[:, None, None] / (rows * columns)
    return lost


def separable(shares: Tensor) -> Tensor:
    """Sums over time, where positive, times sums over the bands."""
    return shares.sum(2, keepdim=True).clamp(min=0) * shares.sum(1, keepdim=True).clamp(min=0)


def of_default(seed: int, num_records: int, unseen: bool) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """By mask, the share inside it of each record; the records' faults; whether each is flagged."""
    pool = pool_of(seed)
    waveforms, sensors, _ = made(pool)
    run = Run(recipes.fused(), FACTS, fitted_vector(recipes.fused(), waveforms, sensors))
    config = faulty(pool, num_records, unseen)
    if unseen:
        first = replace(pool, first_unit=pool.num_units, num_records=CONTEXT * pool.num_units * pool.sensors_per_unit)
        earliest, of, _ = made(first)
        raw = build_vector(recipes.fused().feature, FACTS.mains_hz)(earliest, FACTS.sample_rate_hz)
        rows = {sensor: [i for i, other in enumerate(of) if other == sensor] for sensor in sorted(set(of))}
        assert isinstance(run.model, Detecting)
        run = replace(run, model=run.model.rescaled({"": run.model.scaling.with_sensors((s, raw[i]) for s, i in rows.items())}))
    ill, sensors, faults = made(config)
    well = made(config, Condition())[0]
    maps = drawn(run, ill, sensors)
    images = [plane(w, FACTS.sample_rate_hz).sqrt() for w in (ill, well)]
    found = {f"default, drawn, {share:.0%} mask": inside(maps, planted(images[0], images[1], share)) for share in (0.15, 0.05)}
    return found, faults, flagged(run, ill, well, sensors)


def flagged(run: Run, ill: Tensor, well: Tensor, sensors: list[Sensor]) -> np.ndarray:
    scores = [run.score(w, FACTS.sample_rate_hz, sensors).numpy() for w in (ill, well)]
    return scores[0] > np.quantile(scores[1], 0.95)


def of_net(name: str, seed: int, num_records: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """By way, the share inside the mask of each record; the records' faults; whether each is flagged."""
    recipe = recipes.NAMED[name]()
    assert isinstance(recipe, DeepRecipe)
    waveforms, sensors, _ = made(pool_of(seed))
    member = fitted_net(recipe, waveforms, sensors, f"fleet {seed}")
    run, config = Run(recipe, FACTS, member), faulty(pool_of(seed), num_records)
    ill, sensors, faults = made(config)
    well = made(config, Condition())[0]
    image, net = build_image(recipe.feature, None), member.detector
    x, usual = (member.scaling(image(w, FACTS.sample_rate_hz), sensors) for w in (ill, well))
    mask = planted(x.sum(1), usual.sum(1), 0.15)

    def score(at: Tensor) -> Tensor:
        return net.score(net(at))  # type: ignore[operator]

    shares = integrated_gradients(score, x)
    ways = {
        "drawn": drawn(run, ill, sensors),
        "integrated gradients": shares.sum(1),
        "integrated gradients, risen": (shares * (x > 0)).sum(1),
        "its bands by its times, risen": separable((shares * (x > 0)).sum(1)),
        "highest tenth of what rose": standing_out((shares * (x > 0)).sum(1)),
    }
    if name == "cwt-svdd":
        ways |= {f"occlusion {r} x {c}": occlusion(score, x, r, c) for r, c in ((4, 1), (2, 2))}
    else:  # half a second a record by occlusion
        with torch.no_grad():
            ways["whole residual"] = residual_map(net, x)  # type: ignore[arg-type]
    return {f"{name}, {way}": inside(values, mask) for way, values in ways.items()}, faults, flagged(run, ill, well, sensors)


def named(seed: int, num_records: int) -> dict[str, list[float]]:
    """By fault (and of healthy records, with a disturbance now and then): share of records of which the words name its family, and of which
    they name another one."""
    pool = pool_of(seed)
    waveforms, sensors, _ = made(pool)
    member = fitted_vector(recipes.fused(), waveforms, sensors)
    found = {}
    for fault in (None, *FAMILY):
        config = replace(pool, num_records=num_records, first_step=300, contamination=1.0, off_share=0.0, faults=(fault or "dc_bias",))
        waveforms, sensors, _ = made(config, None if fault else Condition())
        told = [{sign.name for sign in own} - {"moved", "usual"} for own in signs_of(member, waveforms, sensors, FACTS)]
        right = FAMILY.get(fault or "", set())
        found[fault or NORMAL] = [float(np.mean([bool(own & right) for own in told])), float(np.mean([bool(own - right) for own in told]))]
    return found


def show(figures: list[tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]], what: str) -> None:
    for way in figures[0][0]:
        for fault in PLANTED:
            of = {"all": [], "flagged": []}
            medians = []
            for found, faults, high in figures:
                of["all"].append(np.mean(found[way][faults == fault] >= 0.5))
                of["flagged"].append(np.mean(found[way][(faults == fault) & high] >= 0.5))
                medians.append(np.median(found[way][faults == fault]))
            told = ", ".join(f"{name} {np.mean(v):.2f} ({np.std(v, ddof=min(1, len(v) - 1)):.2f})" for name, v in of.items())
            print(f"{way:38s} {what:12s} {fault:12s} half inside: {told}; median inside {np.mean(medians):.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--records", type=int, default=240)
    parser.add_argument("--nets", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("mean over seeds (standard deviation)")
    for unseen in (False, True):
        figures = [of_default(seed, arguments.records, unseen) for seed in arguments.seeds]
        show(figures, "units unseen" if unseen else "units seen")
    for name in ("cwt-svdd", "cwt-vae") if arguments.nets else ():
        start = time.perf_counter()
        show([of_net(name, seed, arguments.records) for seed in arguments.seeds], "units seen")
        print(f"  {time.perf_counter() - start:.0f} s")
    words = [named(seed, arguments.records) for seed in arguments.seeds]
    for fault in words[0]:
        right, wrong = np.array([own[fault] for own in words]).T
        print(f"words of {fault:18s} its family {right.mean():.2f} ({right.std():.2f}), another {wrong.mean():.2f} ({wrong.std():.2f})")


if __name__ == "__main__":
    main()
