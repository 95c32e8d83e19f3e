"""What jobs/search.py and jobs/benchmark.py are asked: dataclasses whose fields are their help."""

from dataclasses import dataclass
from typing import Literal

from vibray.decide.splits import RECORDS_PER_SENSOR
from vibray.recipes.kinds import Recipe

RECIPES = ("fused", "mahalanobis", "knn", "local-knn", "pca", "movement")


@dataclass(frozen=True)
class SearchJob:
    """What jobs/search.py is asked."""

    features: tuple[str, ...]
    """finished features tables, one corpus each"""
    search: str
    """folder for the search; it holds this one search"""
    recipe: Recipe
    labels: str | None = None
    """labels file (JSON Lines, or a review queue as CSV); records that it does not name are unlabelled. No label is trained on"""
    num_trials: int = 64
    """trials in all, those that are ended early among them"""
    objective: Literal["auroc", "f1"] | None = None
    """what is made high on the labelled records: auroc (the default), or f1 at the best threshold. Without --labels there is none"""
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


@dataclass(frozen=True)
class BenchmarkJob:
    """What jobs/benchmark.py is asked."""

    features: tuple[str, ...]
    """finished features tables, one corpus each"""
    labels: str
    """labels file (JSON Lines, or a review queue as CSV); records that it does not name are unlabelled"""
    benchmark: str
    """folder for the benchmark; it holds this one grid"""
    recipes: tuple[str, ...] = RECIPES
    """named recipes to compare; the help of jobs/train.py lists and describes them"""
    num_folds: int = 5
    """parts of the units; fewer units than that are split by time, with a warning"""
    seeds: int = 3
    """draws of faults and labels, and trainings of nets, in each fold"""
    contamination: tuple[float, ...] = (0.0, 0.02, 0.05, 0.1, 0.2)
    """shares of faults in the pool"""
    main_contamination: float | None = None
    """the share at which nets take part and that the main table is of; default: the middle one of --contamination"""
    label_budgets: tuple[int, ...] = (0, 5, 20, 50)
    """numbers of labels for recipes that learn from labels"""
    calibration_records: int = RECORDS_PER_SENSOR
    """earliest records of a held-out sensor that calibrate it; half of its records where it has fewer than twice as many"""
    unlabelled_pool: bool = False
    """unlabelled records are trained on too; the stated contamination is then a lower bound"""
    small: bool = False
    """nets on small images with a narrow trunk, for CPUs"""
    epochs: int | None = None
    """with --small: epochs of each net"""
    max_hours: float | None = None
    """refuse a grid that would take longer"""
    dry_run: bool = False
    """print grid, sizes and cost; write nothing"""
