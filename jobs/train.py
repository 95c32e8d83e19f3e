"""Train a recipe on finished features tables and write a run folder.

The recipe's name comes last on the line, its overrides after it; without one the default is trained:

  python jobs/train.py --features s3://b/features/a --run s3://b/runs/a
  python jobs/train.py --features s3://b/features/a --run s3://b/runs/svdd \\
      --num-workers 4 cwt-svdd --optim.epochs 80
  python jobs/train.py --features s3://b/features/a s3://b/features/labelled \\
      --run s3://b/runs/classifier --labels labels.jsonl classifier

What a recipe lets you change: its name, then --help.

  python jobs/train.py cwt-svdd --help

The same command again goes on where it stopped.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from vibray.fitting.jobs import TrainJob
from vibray.pipeline.ending import user_errors
from vibray.pipeline.jobs import help_text, one_of
from vibray.recipes import NAMED
from vibray.recipes.kinds import Recipe

if TYPE_CHECKING:
    NamedRecipe = Recipe
else:
    NamedRecipe = one_of(NAMED)


@dataclass(frozen=True)
class Train(TrainJob):
    """The recipe comes last on the line, its fields after it."""

    recipe: Annotated[NamedRecipe, tyro.conf.arg(name="")] = NAMED["fused"]()


def main(job: Train) -> None:
    from vibray.pipeline.train import train

    train(job)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Train, description=help_text(__doc__)))
