"""Compare recipes on one corpus with labels, split by unit, with the simple controls always beside them.

On a featurized corpus whose labels file names records normal or by their fault:

  python jobs/benchmark.py --features s3://b/features/a --labels labels.jsonl \\
      --benchmark s3://b/benchmarks/a --dry-run
  python jobs/benchmark.py --features s3://b/features/a --labels labels.jsonl \\
      --benchmark s3://b/benchmarks/a --small --max-hours 8 \\
      --recipes mahalanobis knn movement cwt-svdd

What happens, once for each fold, seed and contamination:

  pool         records of the other folds' units, labelled normal, with
               labelled faults drawn into them up to the stated share; a
               recipe sees no label of them
  calibration  each held-out sensor's earliest records, as they come
  judged       all other labelled records of the held-out units: AUROC, AUPRC
               beside the prevalence, AUROC up to a false-alarm rate of .1,
               false alarms and recall at the pool's 99th percentile, AUROC
               of each fault
  labels       recipes that learn from labels get 5, 20 and 50 of them
               (--label-budgets), half faults, from the other folds' units

RMS, Isolation Forest, Mahalanobis of 64 bands (banded), a regression on the labels alone and the random weights of each net take part
unasked. Nets, and recipes that see labels, take part at the main contamination only. A trial of each recipe tells the cost before the
grid starts.

The folder gets one JSON file a cell, benchmark.md, benchmark.json and benchmark.png; the same command again goes on where it stopped and
tries what failed. Exit code 2 where a cell failed.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import tyro

from vibray.compare.jobs import RECIPES, BenchmarkJob
from vibray.pipeline.ending import user_errors
from vibray.pipeline.jobs import help_text
from vibray.recipes import NAMED

if TYPE_CHECKING:
    RecipeName = str
else:
    RecipeName = Literal[tuple(NAMED)]


@dataclass(frozen=True)
class Benchmark(BenchmarkJob):
    """A recipe's name is one of those that are known."""

    recipes: tuple[RecipeName, ...] = RECIPES


def main(job: Benchmark) -> None:
    from vibray.pipeline.benchmark import benchmark

    benchmark(job)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Benchmark, description=help_text(__doc__)))
