"""What jobs/train.py, jobs/prune.py and jobs/pretrain.py are asked: dataclasses whose fields are their help."""

from dataclasses import dataclass

from vibray.fitting.pretraining import PRETRAININGS, PretrainingRecipe
from vibray.recipes.kinds import Recipe

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
    """labels file (JSON Lines, or a review queue as CSV): for a classifier or deep-sad, or with --normals-only"""
    normals_only: bool = False
    """fit a detector on the records labelled normal alone"""
    search_pool: bool = False
    """fit a detector on what a search's trials are fitted on: records that --labels names stay out where there are as many others"""
    pseudo_labels: str | None = None
    """decisions folder whose pseudo-labels a classifier learns from too"""
    init_from: str | None = None
    """run whose encoder, image and scaling a classifier starts from; of a band-transformer or an adapter, what jobs/pretrain.py left"""
    members: tuple[str, ...] = ()
    """ensemble: finished runs to fuse, instead of training the recipe's members"""
    num_workers: int = 1
    """Ray Train workers, on a GPU each where the cluster has GPUs"""
    cache_gb: float = CACHE_GB
    """images kept on each node's disk during training; what does not fit is made again each epoch"""
    disk_gb: float | None = None
    """disk that waveforms may take on each node, by default nine tenths of what is free; above it they are read again in each epoch"""
    local: bool = False
    """work in this process, without Ray; features of one part are worked on so unasked, with one worker"""
    dry_run: bool = False
    """print what would be trained; write nothing"""


@dataclass(frozen=True)
class PruneJob:
    """What jobs/prune.py is asked."""

    run: str
    """finished run of Deep SVDD on ResNet-18"""
    pruned: str
    """folder for the pruned run; it holds this one run"""
    features: tuple[str, ...]
    """finished features tables whose records it is fine-tuned on, one corpus each"""
    share: float = 0.2
    """share of the net's operations that may stay"""
    epochs: int = 8
    """times that every record is seen in fine-tuning; 0 leaves the net as it was cut"""
    num_workers: int = 1
    """Ray Train workers, on a GPU each where the cluster has GPUs"""
    cache_gb: float = CACHE_GB
    """images kept on each node's disk; what does not fit is made again each epoch"""
    disk_gb: float | None = None
    """disk that waveforms may take on each node, by default nine tenths of what is free; above it they are read again in each epoch"""
    local: bool = False
    """work in this process, without Ray; features of one part are worked on so unasked, with one worker"""
    dry_run: bool = False
    """print what would be pruned; write nothing"""


@dataclass(frozen=True)
class PretrainJob:
    """What jobs/pretrain.py is asked."""

    run: str
    """folder for the weights, and for the examples that they are made from"""
    recipe: PretrainingRecipe = PRETRAININGS["context-scorer"]()
    features: tuple[str, ...] = ()
    """finished features tables of any rates, one corpus each; their waveforms are read, their vectors are not"""
    fleets: int | None = None
    """generated fleets besides; by default the recipe's own number"""
    num_workers: int = 1
    """Ray Train workers, on a GPU each where the cluster has GPUs"""
    local: bool = False
    """work in this process, without Ray"""
    dry_run: bool = False
    """say what would be made; write nothing"""
