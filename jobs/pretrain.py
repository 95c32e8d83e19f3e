"""Pretrain a net on several corpora and generated fleets, for machines that it will not have seen.

The recipe's name comes last on the line, its overrides after it; without one it is the context scorer:

  python jobs/pretrain.py --run s3://b/pretrained/scorer
  python jobs/pretrain.py --run s3://b/pretrained/three-faults \\
      context-scorer --fleets.faults winding_looseness tap_changer fan_bearing
  python jobs/pretrain.py --run s3://b/pretrained/bands --fleets 4 \\
      --features s3://b/features/a s3://b/features/b --num-workers 4 \\
      band-transformer

The default detector has the context scorer as one of its parts, and `zero-shot` is it alone. The weights that are shipped were made by the
first command; its model.safetensors, copied over vibray/models/context_scorer.safetensors, is the default's.

What the band transformer left, jobs/train.py takes with --init-from: `band-transformer` measures what is usual within each sensor and
trains nothing, `adapter` trains 2 % of its weights on the corpus.

Examples are made on workers and kept in the folder, and so is a checkpoint an epoch: the same command again goes on where it stopped.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from vibray.fitting.jobs import PretrainJob
from vibray.fitting.pretraining import PRETRAININGS, PretrainingRecipe
from vibray.pipeline.ending import user_errors
from vibray.pipeline.jobs import help_text, one_of

if TYPE_CHECKING:
    NamedRecipe = PretrainingRecipe
else:
    NamedRecipe = one_of(PRETRAININGS)


@dataclass(frozen=True)
class Pretrain(PretrainJob):
    """The recipe comes last on the line, its fields after it."""

    recipe: Annotated[NamedRecipe, tyro.conf.arg(name="")] = PRETRAININGS["context-scorer"]()


def main(job: Pretrain) -> None:
    from vibray.pipeline.pretrain import pretrain

    pretrain(job)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Pretrain, description=help_text(__doc__)))
