"""Cuts, pseudo-labels and alarms of units from a scores table. Cheap and repeatable: the scores are read, never edited.

  python jobs/label.py --scores s3://b/scores/2024 \\
      --decisions s3://b/decisions/2024-mad mad --anomaly 4
  python jobs/label.py --scores s3://b/scores/2024 \\
      --decisions s3://b/decisions/2024-pot --by unit pot --q 0.001
  python jobs/label.py --scores s3://b/scores/2024 \\
      --decisions s3://b/decisions/2024-units --pool-sensors percentile
  python jobs/label.py --scores s3://b/scores/may \\
      --decisions s3://b/decisions/may --persist 3 5 \\
      --unit-reference s3://b/scores/2024 mad
  python jobs/label.py --scores s3://b/scores/may \\
      --decisions s3://b/decisions/may-5 --budget 5/week \\
      --unit-reference s3://b/scores/2024
  python jobs/label.py --scores s3://b/scores/may \\
      --decisions s3://b/decisions/may-20 --review 20 \\
      --report https://b.example/may/report.html
  python jobs/label.py --scores s3://b/scores/june \\
      --decisions s3://b/decisions/june --unit-reference s3://b/scores/2024 \\
      --standing s3://b/decisions/2024-mad

The method comes last; `jobs/label.py pot --help` shows its fields.

Without trusted normals a cut picks a rate of the corpus, not a false-alarm probability; --labels with --normals-only (or the method
conformal) fits it on records that a person calls normal. MAD, the default on scores as they are, is a rule and promises no rate.

A unit is in alarm where k of its last n windows are rare against its sensors' own reference: the records of --unit-reference, else (with
--normals-only) those labelled normal, else the earliest of each sensor. It says how often a healthy fleet would raise one. For each unit
unit_trends.parquet says whether it is steady, rose in a step or grows, since when and how fast.

--budget sets both, the abnormal cut of records and the rate of windows, so that a healthy fleet raises at most so many alarms of either: by
their 95 % limit on the same reference, where it is long enough. With --labels it says which faults such a cut would have missed.

--standing fits nothing: the cuts and the rule for units of finished decisions apply to these scores as they stand, so that a fleet that
falls ill does not move its own cut. jobs/nightly.py labels each night so.

--review writes review.csv for a spreadsheet: the highest scores that nobody has labelled, in turn one of each unit. Fill in the column
label (normal, or the fault's name; rows left empty are passed over) and give the file as --labels to any job, saved as "CSV UTF-8".
"""

from dataclasses import dataclass
from typing import Annotated

import tyro

from vibray.decide.thresholds import ConformalConfig, MadConfig, PercentileConfig, PotConfig
from vibray.pipeline.ending import user_errors
from vibray.pipeline.jobs import LabelJob, help_text

Method = (
    Annotated[MadConfig, tyro.conf.subcommand("mad", prefix_name=False, default=MadConfig(log=False))]
    | Annotated[PercentileConfig, tyro.conf.subcommand("percentile", prefix_name=False)]
    | Annotated[PotConfig, tyro.conf.subcommand("pot", prefix_name=False)]
    | Annotated[ConformalConfig, tyro.conf.subcommand("conformal", prefix_name=False)]
)


@dataclass(frozen=True)
class Label(LabelJob):
    """The method comes last on the line, its fields after it."""

    method: Annotated[Method, tyro.conf.arg(name="")] = MadConfig(log=False)


def main(job: Label) -> None:
    from vibray.pipeline.label import label

    label(job)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Label, description=help_text(__doc__)))
