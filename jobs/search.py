"""Search a recipe's values: TPE over trials that are trained once a fold and stopped early where others do better.

On featurized corpora with tens of labels:

  python jobs/search.py --features s3://b/features/a s3://b/features/labelled --labels labels.jsonl \\
      --search s3://b/searches/a --dry-run cwt-svdd
  python jobs/search.py --features s3://b/features/a s3://b/features/labelled --labels labels.jsonl \\
      --search s3://b/searches/a --num-trials 64 --bounds latent_dim=8:64 objective=hypersphere cwt-svdd --optim.epochs 6

What happens in a trial, once for each fold of units: the recipe is trained on the other units' records without a label, the fold's
sensors are calibrated by their earliest records, the fold's labelled records are scored once, and every setting of every threshold method
is judged on these scores. The first trial is the recipe as it is. Trials are compared after some epochs (--grace-epochs) and again after
--reduction times as many; those not among the best stop. One that fails or collapses is a trial with its reason.

The folder gets one JSON file a trial, which is all that is remembered: the same command again goes on where it stopped. With one trial
at a time (--max-concurrent-trials 1) the same seed gives the same trials; with more the order in which they end decides, and the best may
differ.

Without labels there is no sound objective; the job says what was measured and takes the recipe as it is, unless --objective insists.

In the end: winner.json, search.md, search.html. With the archive on the same line the winner is trained on all features and scores it:

  python jobs/search.py --features s3://b/features/a --labels labels.jsonl --search s3://b/searches/a \\
      --then-score s3://b/scores/2024 --input s3://b/raw/2024 --sample-rate-hz 8192 cwt-svdd
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Union

import tyro

from vibray.pipeline.calibration import RECORDS_PER_SENSOR
from vibray.pipeline.search import SearchJob, search
from vibray.pipeline.session import started, user_errors
from vibray.recipes import NAMED, Recipe

SEARCHABLE = "cwt-svdd", "plain-svdd", "cwt-svdd-soft", "seed-svdd", "cwt-vae", "hetero-vae", "fused"

if TYPE_CHECKING:
    NamedRecipe = Recipe
else:
    NamedRecipe = Union[  # noqa: UP007 (built, not written)
        tuple(
            Annotated[
                type(make()),
                tyro.conf.subcommand(name, default=make(), description=make.__doc__, prefix_name=False),
                tyro.conf.AvoidSubcommands,
            ]
            for name, make in ((name, NAMED[name]) for name in SEARCHABLE)
        )
    ]


@dataclass(frozen=True)
class Search:
    features: tuple[str, ...]
    """finished features tables, one corpus each"""
    search: str
    """folder for the search; it holds this one search"""
    labels: str | None = None
    """labels file (JSON Lines); records that it does not name are unlabelled. No label is trained on"""
    num_trials: int = 64
    """trials in all, those that are ended early among them"""
    objective: Literal["auroc", "f1", "injected", "stability"] | None = None
    """what is made high; with labels auroc, or f1 at the best threshold. Without labels: none, or, if you insist, AUROC on injected faults
    or how alike two nets, each of half the pool, rank new records"""
    with_cost: bool = False
    """two objectives: the net's operations a record are to be few; the report shows the front, and no trial is ended early"""
    bounds: tuple[str, ...] = ()
    """other bounds: latent_dim=8:64, objective=hypersphere, metric=mahalanobis,distance; --dry-run shows those in force"""
    num_folds: int = 3
    """parts of the units; a trial is trained once for each"""
    calibration_records: int = RECORDS_PER_SENSOR
    """earliest records of a held-out sensor that calibrate it; half of its records where it has fewer than twice as many"""
    seed: int = 0
    """of the trials that are drawn, and of the folds"""
    grace_epochs: int | None = None
    """epochs before a trial may be ended; default: half of a fold's"""
    reduction: int = 3
    """one trial in so many goes on at each comparison"""
    early_stopping: bool = True
    """compare trials while they train"""
    num_workers: int = 1
    """workers a trial, on a GPU each where the cluster has GPUs; several train as one by Ray Train"""
    max_concurrent_trials: int | None = None
    """trials at a time, at most; default: as many as the cluster's cores or GPUs carry"""
    storage: str | None = None
    """Optuna storage that gets a copy of each trial, for optuna-dashboard: sqlite:///search.db, postgresql://user@host/database"""
    train_winner: bool = False
    """train the winner on all features, into the folder's winner/"""
    then_score: str | None = None
    """folder for the scores table that the winner makes of --input"""
    input: str | None = None
    """with --then-score: folder of shards, or one shard"""
    sample_rate_hz: float | None = None
    """with --then-score: samples a second of the input"""
    dry_run: bool = False
    """print records, folds and space; write nothing"""
    recipe: Annotated[NamedRecipe, tyro.conf.arg(name="")] = NAMED["cwt-svdd"]()


def main(args: Search) -> None:
    with started(needed=not args.dry_run):
        search(SearchJob(**vars(args)))


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Search, description=__doc__))
