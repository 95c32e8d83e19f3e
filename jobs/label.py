"""Cuts and pseudo-labels from a scores table. Cheap and repeatable: the scores are read, never edited.

  python jobs/label.py --scores s3://b/scores/2024 --decisions s3://b/decisions/2024-mad mad --anomaly 4
  python jobs/label.py --scores s3://b/scores/2024 --decisions s3://b/decisions/2024-pot --by unit pot --q 0.001

Without trusted normals a cut picks a rate of the corpus, not a false-alarm probability; --labels with --normals-only (or the method
conformal) fits it on records that a person calls normal.
"""

from dataclasses import dataclass
from typing import Annotated

import tyro

from vibray.decide.thresholds import ConformalConfig, MadConfig, PercentileConfig, PotConfig
from vibray.pipeline.decisions import MIN_GROUP_RECORDS, By, label
from vibray.pipeline.session import user_errors

Method = (
    Annotated[MadConfig, tyro.conf.subcommand("mad", prefix_name=False)]
    | Annotated[PercentileConfig, tyro.conf.subcommand("percentile", prefix_name=False)]
    | Annotated[PotConfig, tyro.conf.subcommand("pot", prefix_name=False)]
    | Annotated[ConformalConfig, tyro.conf.subcommand("conformal", prefix_name=False)]
)


@dataclass(frozen=True)
class Label:
    scores: tuple[str, ...]
    """finished scores tables of one run"""
    decisions: str
    """folder for cuts and pseudo-labels"""
    by: By = "none"
    """cuts of their own for each unit or sensor with enough records, so that one loud unit does not fill the anomaly class"""
    labels: str | None = None
    """labels file (JSON Lines): human labels win over any cut"""
    normals_only: bool = False
    """fit the cuts on the records labelled normal alone"""
    min_group_records: int = MIN_GROUP_RECORDS
    """fewer records than these: a group has the cuts of all"""
    round: int = 0
    """number of this round of pseudo-labels"""
    dry_run: bool = False
    """print cuts and counts; write nothing"""
    method: Annotated[Method, tyro.conf.arg(name="")] = MadConfig()


def main(args: Label) -> None:
    label(
        args.scores, args.decisions, args.method, args.by, args.labels, args.normals_only, args.min_group_records, args.round, args.dry_run
    )


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Label, description=__doc__))
