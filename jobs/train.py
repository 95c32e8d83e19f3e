"""Train a recipe on finished features tables and write a run folder.

The recipe's name comes last on the line, its overrides after it; without one the default is trained:

  python jobs/train.py --features s3://b/features/a --run s3://b/runs/a
  python jobs/train.py --features s3://b/features/a --run s3://b/runs/svdd --num-workers 4 cwt-svdd --optim.epochs 80
  python jobs/train.py --features s3://b/features/a s3://b/features/labelled --run s3://b/runs/classifier \\
      --labels labels.jsonl --pseudo-labels s3://b/decisions/a --init-from s3://b/runs/svdd classifier

The same command again goes on where it stopped. `python jobs/train.py RECIPE --help` shows what a recipe lets you change.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Union

import tyro

from vibray.pipeline.session import started, user_errors
from vibray.pipeline.training import CACHE_GB, TrainingJob, train
from vibray.recipes import NAMED, Recipe

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
            for name, make in NAMED.items()
        )
    ]


@dataclass(frozen=True)
class Train:
    features: tuple[str, ...]
    """finished features tables, one corpus each"""
    run: str
    """folder for the run; it holds this one run"""
    labels: str | None = None
    """labels file (JSON Lines): for a classifier or deep-sad, or with --normals-only"""
    normals_only: bool = False
    """fit a detector on the records labelled normal alone"""
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
    dry_run: bool = False
    """print what would be trained; write nothing"""
    recipe: Annotated[NamedRecipe, tyro.conf.arg(name="")] = next(iter(NAMED.values()))()


def main(args: Train) -> None:
    job = TrainingJob(**vars(args))
    with started(num_cpus=args.num_workers if args.num_workers > 1 else None, needed=not args.dry_run):
        train(job)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Train, description=__doc__))
