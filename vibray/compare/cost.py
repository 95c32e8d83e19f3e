"""What recipes cost: a benchmark's cells, by timings; a classical one is run, of a net's a few steps."""

import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from vibray.compare.cells import Contestant, is_deep, run_cell, scores_of, seeded, with_epochs
from vibray.compare.corpus import Corpus
from vibray.decide.splits import Setting, Split
from vibray.recipes.kinds import ClassifierRecipe, DeepRecipe, EnsembleRecipe

STEP_RECORDS = 32
"""Records on which a net's steps are timed: one batch."""


def cell_seconds(corpus: Corpus, recipe: Contestant, setting: Setting) -> float:
    """How long a cell of this recipe takes on this machine."""
    torch.set_num_threads(1)
    if not is_deep(recipe):
        return run_cell(corpus, recipe, setting)["seconds"]
    rows = corpus.rows(setting)
    few = _few(corpus, rows)
    _timed(with_epochs(recipe, 0), *few)  # imports, and filters that a feature keeps
    once = _timed(with_epochs(recipe, 0), *few)
    epochs = _epochs(recipe)
    step = _timed(with_epochs(recipe, 1), *few) - once if max(epochs) else 0.0
    # a classifier learns from its labels alone, which are all among the few
    longer = 1.0 if isinstance(recipe, ClassifierRecipe) else len(rows.pool) / len(few[1].pool)
    return once * len(corpus.table) / len(few[0].table) + max(0.0, step) * longer * float(np.mean(epochs))


def _few(corpus: Corpus, rows: Split) -> tuple[Corpus, Split]:
    """The corpus of a few of a cell's training records."""
    chosen = np.union1d(rows.pool[:STEP_RECORDS], rows.labelled)
    taken = replace(corpus, table=corpus.table.take(chosen), vectors={n: v[chosen] for n, v in corpus.vectors.items()})
    taken = replace(
        taken, waveforms=corpus.waveforms[chosen], records=_taken(corpus, chosen), fold=corpus.fold[chosen], off=corpus.off[chosen]
    )
    pool = np.searchsorted(chosen, rows.pool[:STEP_RECORDS])
    return taken, Split(pool, pool[:0], pool[:2], np.searchsorted(chosen, rows.labelled), 0)


def _taken(corpus: Corpus, chosen: np.ndarray):
    r = corpus.records
    return replace(r, unit=r.unit[chosen], sensor=r.sensor[chosen], order=r.order[chosen], time=r.time[chosen], label=r.label[chosen])


def _timed(recipe: Contestant, corpus: Corpus, rows: Split) -> float:
    start = time.perf_counter()
    scores_of(seeded(recipe, 0), corpus.task(rows, 0))
    return time.perf_counter() - start


def _epochs(recipe: Contestant) -> list[int]:
    match recipe:
        case EnsembleRecipe():
            return [e for member in recipe.members.values() for e in _epochs(member)]
        case DeepRecipe():
            return [recipe.optim.epochs] if recipe.detector.kind == "vae" else [recipe.pretrain.epochs, recipe.optim.epochs]
        case ClassifierRecipe():
            return [recipe.optim.epochs]
    return [0]


@dataclass(frozen=True)
class Cost:
    """The cells that a recipe still needs, and what one takes."""

    recipe: str
    num_cells: int
    seconds: float | None
    """None: a trial failed with `error`"""
    on_gpu: bool
    error: str = ""

    def __str__(self) -> str:
        if self.seconds is None:
            return f"{self.recipe}: {self.num_cells} cells, not known: {self.error}"
        each = f"{self.seconds:.1f} s" if self.seconds < 600 else f"{self.seconds / 3600:.2f} h"
        return f"{self.recipe}: {self.num_cells} cells of {each}{' on a GPU' if self.on_gpu else ''}"


def hours(costs: list[Cost], num_cpus: int, num_gpus: int) -> float:
    """Wall time: CPU cells one a core, GPU cells one a GPU, both at once."""
    on = {gpu: sum(c.num_cells * (c.seconds or 0.0) for c in costs if c.on_gpu == gpu) for gpu in (False, True)}
    return max(on[False] / num_cpus, on[True] / max(1, num_gpus)) / 3600
