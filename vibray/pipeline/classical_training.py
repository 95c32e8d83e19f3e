"""Classical detectors on Ray: passes over the parts of the features tables, merged in the order of the parts."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import ray
import torch

from vibray.features.scaling import ScalingFit
from vibray.pipeline import session
from vibray.pipeline.progress import Progress
from vibray.pipeline.tables import PartRows, TrainingTable
from vibray.recipes import ClassicalRecipe, build_classical, build_vector, columns_of
from vibray.runs import Detecting, Run, save, score_statistics
from vibray.storage import objects
from vibray.train.classical import Map, Rows, fit_detector, fit_scaling, score_parts

T = TypeVar("T")


def fit_classical(run_uri: str, recipe: ClassicalRecipe, table: TrainingTable, rows: np.ndarray) -> None:
    """Fits a detector on these rows of the table and writes its run folder."""
    histories = table.histories  # of all records, whatever the detector is fitted on
    table = table.take(rows[np.argsort(table.part[rows], kind="stable")])
    parts = table.part_rows()
    feature = build_vector(recipe.feature, table.facts.mains_hz)
    columns = columns_of(feature, recipe.detector.blocks)
    load = VectorLoader(recipe.feature.kind, {p.uri: np.flatnonzero(table.part == i) for p, i in _numbered(parts, table)}, table)
    scaling = fit_scaling(ScalingFit(recipe.scaling, feature.shape), parts, load, _on_ray("scaling"))
    detector = fit_detector(build_classical(recipe.detector, feature), scaling, columns, parts, load, _on_ray("fit"))
    scores = score_parts(detector, scaling, columns, parts, load, _on_ray("score"))
    model = Detecting(recipe, scaling, detector, score_statistics(scores))
    save(run_uri, Run(recipe, table.facts, model, histories), [_score_line(scores)], session.environment())


def _numbered(parts: list[PartRows], table: TrainingTable) -> Iterator[tuple[PartRows, int]]:
    return zip(parts, np.unique(table.part).tolist(), strict=True)


@dataclass(frozen=True)
class VectorLoader:
    """Reads the vectors of a part's rows, with what belongs to them."""

    column: str
    places: dict[str, np.ndarray]
    table: TrainingTable

    def __call__(self, part: PartRows) -> Rows:
        stored = objects.read_table(part.uri, [self.column])[self.column].combine_chunks()
        vectors = stored.flatten().to_numpy().reshape(len(stored), -1)[part.rows]
        at = self.places[part.uri]
        return Rows(torch.from_numpy(vectors.copy()), [self.table.sensors[i] for i in at], self.table.key_hash[at])


def _on_ray(label: str) -> Map:
    """A map over parts on Ray's workers, results in order, at most two tasks a core waiting."""

    def run(function: Callable[[Any], Any], parts: Sequence[Any]) -> Iterator[Any]:
        shared = ray.put(function)
        task = ray.remote(num_cpus=1)(_call)
        waiting: list[Any] = []
        queue = iter(parts)
        limit = 2 * session.num_cpus()
        with Progress(label, len(parts), "parts") as progress:
            for part in itertools.islice(queue, limit):
                waiting.append(task.remote(shared, part))
            while waiting:
                result = ray.get(waiting.pop(0))
                for part in itertools.islice(queue, 1):
                    waiting.append(task.remote(shared, part))
                progress.add(1)
                yield result

    return run


def _call(function: Callable[[Any], T], part: Any) -> T:
    torch.set_num_threads(1)
    return function(part)


def _score_line(scores: np.ndarray) -> dict[str, Any]:
    quantiles = {f"q{q:g}": float(np.quantile(scores, q)) for q in (0.05, 0.5, 0.95, 0.99)}
    return {"stage": "training scores", "num_records": len(scores), **quantiles}
