"""Search a recipe's values: TPE over trials that are trained once a fold and stopped early where others do better.

On featurized corpora with tens of labels:

  python jobs/search.py --features s3://b/features/a s3://b/features/labelled \\
      --labels labels.jsonl --search s3://b/searches/a --dry-run cwt-svdd
  python jobs/search.py --features s3://b/features/a s3://b/features/labelled \\
      --labels labels.jsonl --search s3://b/searches/a --num-trials 64 \\
      --bounds latent_dim=8:64 objective=hypersphere \\
      cwt-svdd --optim.epochs 6

What happens in a trial, once for each fold of units: the recipe is trained on the other units' records without a label, the fold's
sensors are calibrated by their earliest records, the fold's labelled records are scored once, and every setting of every threshold method
is judged on these scores. The first trial is the recipe as it is.

Trials are compared after some epochs (--grace-epochs) and again after --reduction times as many; those not among the best stop. One that
fails or collapses is a trial with its reason. The best wins where its gain on the folds over the recipe as it is exceeds one standard
error of that gain; else the recipe stays as it is. Without labels there is no sound objective, and it stays as it is, too.

The folder gets one JSON file a trial, which is all that is remembered: the same command again goes on where it stopped. With one trial
at a time (--max-concurrent-trials 1) the same seed gives the same trials; with more the order in which they end decides, and the best may
differ.

In the end: winner.json, search.md, search.html. With the archive on the same line the winner is trained on all features and scores it:

  python jobs/search.py --features s3://b/features/a --labels labels.jsonl \\
      --search s3://b/searches/a --then-score s3://b/scores/2024 \\
      --input s3://b/raw/2024 --sample-rate-hz 8192 cwt-svdd
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from vibray.compare.jobs import SearchJob
from vibray.pipeline.ending import user_errors
from vibray.pipeline.jobs import help_text, one_of
from vibray.recipes import NAMED
from vibray.recipes.kinds import Recipe

SEARCHABLE = "cwt-svdd", "plain-svdd", "cwt-svdd-soft", "seed-svdd", "cwt-vae", "hetero-vae", "fused"

if TYPE_CHECKING:
    NamedRecipe = Recipe
else:
    NamedRecipe = one_of({name: NAMED[name] for name in SEARCHABLE})


@dataclass(frozen=True)
class Search(SearchJob):
    """The recipe comes last on the line, its fields after it."""

    recipe: Annotated[NamedRecipe, tyro.conf.arg(name="")] = NAMED["cwt-svdd"]()


def main(job: Search) -> None:
    from vibray.pipeline.search import search

    search(job)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Search, description=help_text(__doc__)))
