"""How well the deep recipes do on the synthetic fleet: units unseen in training, calibrated with their own earliest records.

`python -m tests.reference.deep_table [--fleets 0 1] [--seeds 0 1]` prints the AUROC of each recipe, over all and by fault, as mean and
range over the trainings, and paired differences. A fleet's seed draws its machines; a seed of training draws the net's weights and the
order of the records. About six minutes a fleet and seed on one core.

Pool: 1,920 records of 24 units, 5 % faults, no labels; 20 labels for Deep SAD, half of them faults, of later records of these units.
Calibration: the first 200 records of 6 other units. Judged: 600 later records of these, half of them faults.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tests.pipeline.lines import corpus_fields
from vibray import recipes
from vibray.compare.cells import scores_of, seeded
from vibray.compare.corpus import Corpus, Task, off_records, records_of, with_values
from vibray.decide.metrics import auroc
from vibray.decide.splits import UNLABELLED
from vibray.pipeline.featurize import featurize
from vibray.pipeline.jobs import FeaturizeJob, SynthesizeJob
from vibray.pipeline.session import started
from vibray.pipeline.synthesize import synthesize
from vibray.schema import NORMAL
from vibray.signal.synthetic import FleetConfig
from vibray.storage.corpus import CorpusFacts
from vibray.tables.training import open_features

FACTS = CorpusFacts(sample_rate_hz=8192.0, unit_pattern=r"^(u\d+)-", signal_unit="g")
NUM_LABELS = 20
NAMES = ("mahalanobis", "fused", "untrained-svdd", "cwt-svdd", "deep-sad", "cwt-vae", "ensemble")
PAIRS = (("cwt-svdd", "untrained-svdd"), ("deep-sad", "cwt-svdd"), ("cwt-svdd", "mahalanobis"), ("ensemble", "cwt-svdd"))


def corpora(seed: int) -> dict[str, FleetConfig]:
    pool = FleetConfig(seed=seed, num_records=1920, num_units=24, sensors_per_unit=1)
    new = replace(pool, first_unit=24, num_units=6)
    return {
        "pool": pool,
        "labelled": replace(pool, num_records=24 * 4, first_step=80, contamination=0.5),
        "calibration": replace(new, num_records=1200),
        "test": replace(new, num_records=600, first_step=200, contamination=0.5),
    }


def make(folder: Path, seed: int) -> tuple[Corpus, Task]:
    """A fleet, written and featurized as by the jobs, and what the recipes are given of it."""
    names = list(corpora(seed))
    label = {}
    for name, config in corpora(seed).items():
        raw, labels = folder / "raw" / name, folder / f"{name}.jsonl"
        synthesize(SynthesizeJob(str(raw), str(labels), config, shard_records=600))
        featurize(FeaturizeJob(str(raw), str(folder / "features" / name), corpus=name, vectors=("spectral",), **corpus_fields(FACTS)))
        rows = (json.loads(line) for line in labels.read_text().splitlines())
        label.update({(name, row["sensor_id"], row["data_time"][:19]): row["label"] for row in rows})
    table = open_features([str(folder / "features" / name) for name in names])
    index = [table.index[name].to_pylist() for name in ("corpus", "sensor_id", "measured_at")]
    found = np.array([label.get((c, s, f"{at:%Y-%m-%dT%H:%M:%S}"), UNLABELLED) for c, s, at in zip(*index, strict=True)], dtype=object)
    part = np.array(index[0])
    empty = np.empty((len(table), 0), np.float32)
    corpus = Corpus(table, records_of(table, found), np.zeros(len(table), int), {}, empty, off_records(table), 200)
    corpus = with_values(corpus, ["spectral"], True, lambda done, total: None)
    rows = {name: np.flatnonzero(part == name) for name in names}
    judged = rows["test"][found[rows["test"]] != UNLABELLED]
    labelled = some_labels(rows["labelled"], found)
    task = Task(table, corpus.vectors, corpus.waveforms, rows["pool"], rows["calibration"], judged, labelled, found[labelled], 0)
    return corpus, task


def some_labels(rows: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Half normals, half faults of each kind in turn, the earliest of each."""
    normal = rows[label[rows] == NORMAL][: NUM_LABELS // 2]
    kinds = sorted(set(label[rows]) - {NORMAL, UNLABELLED})
    faults = [rows[label[rows] == kind][: NUM_LABELS // 2 // len(kinds)] for kind in kinds]
    return np.sort(np.concatenate([normal, *faults]))


def areas(corpus: Corpus, task: Task, seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    """AUROC by recipe, over all and by fault."""
    label = corpus.records.label[task.judged]
    for name in NAMES:
        recipe = seeded(recipes.NAMED[name](), seed)
        own = task if name == "deep-sad" else replace(task, labelled=task.labelled[:0], label=task.label[:0])
        scores = scores_of(recipe, own).judged
        found = {}
        for fault in ["all", *sorted(set(label) - {NORMAL})]:
            among = (label == NORMAL) | (label == fault) if fault != "all" else np.ones(len(label), bool)
            area = auroc(scores[among], label[among] != NORMAL)
            assert area is not None
            found[fault] = area
        yield name, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fleets", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, list[dict[str, float]]] = {name: [] for name in NAMES}
    for fleet in arguments.fleets:
        with tempfile.TemporaryDirectory(prefix="vibray-table-") as folder:
            with started(num_cpus=2):
                corpus, task = make(Path(folder), fleet)
            for seed in arguments.seeds:
                for name, found in areas(corpus, task, seed):
                    table[name].append(found)
                    print(f"fleet {fleet}, training {seed}, {name}: {found['all']:.4f}", flush=True)
    for name, rows in table.items():
        whole = [row["all"] for row in rows]
        faults = ", ".join(f"{fault} {np.mean([row[fault] for row in rows if fault in row]):.2f}" for fault in rows[0] if fault != "all")
        print(f"{name:16} {np.mean(whole):.3f} ({min(whole):.3f} to {max(whole):.3f}): {faults}")
    for one, other in PAIRS:
        gains = [a["all"] - b["all"] for a, b in zip(table[one], table[other], strict=True)]
        print(f"{one} - {other}: {np.mean(gains):+.3f} ({min(gains):+.3f} to {max(gains):+.3f})")


if __name__ == "__main__":
    main()
