"""What jobs/train.py and jobs/pretrain.py are asked: dataclasses whose fields are their help."""

from dataclasses import dataclass

from vibray.fitting.context_scorer import ContextScorerTraining
from vibray.recipes import Recipe

CACHE_GB = 4.0


@dataclass(frozen=True)
class TrainJob:
    """What jobs/train.py is asked."""

    features: tuple[str, ...]
    """finished features tables, one corpus each"""
    run: str
    """folder for the run; it holds this one run"""
    recipe: Recipe
    labels: str | None = None
    """labels file (JSON Lines): for a classifier or deep-sad, or with --normals-only"""
    normals_only: bool = False
    """fit a detector on the records labelled normal alone"""
    search_pool: bool = False
    """fit a detector on what a search's trials are fitted on: records that --labels names stay out where there are as many others"""
    pseudo_labels: str | None = None
    """decisions folder whose pseudo-labels a classifier learns from too"""
    init_from: str | None = None
    """run whose encoder, image and scaling a classifier starts from"""
    members: tuple[str, ...] = ()
    """ensemble: finished runs to fuse, instead of training the recipe's members"""
    num_workers: int = 1
    """Ray Train workers, on a GPU each where the cluster has GPUs"""
    cache_gb: float = CACHE_GB
    """images kept on each node's disk during training; what does not fit is made again each epoch"""
    local: bool = False
    """work in this process, without Ray; features of one part are worked on so unasked, with one worker"""
    dry_run: bool = False
    """print what would be trained; write nothing"""


@dataclass(frozen=True)
class PretrainJob:
    """What jobs/pretrain.py is asked."""

    run: str
    """folder for the weights, and for the examples that they are made from"""
    training: ContextScorerTraining = ContextScorerTraining()
    local: bool = False
    """work in this process, without Ray"""
    dry_run: bool = False
    """say what would be made; write nothing"""
