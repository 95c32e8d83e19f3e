"""Cuts, pseudo-labels and alarms of units from a scores table. Cheap and repeatable: the scores are read, never edited.

  python jobs/label.py --scores s3://b/scores/2024 --decisions s3://b/decisions/2024-mad mad --anomaly 4
  python jobs/label.py --scores s3://b/scores/2024 --decisions s3://b/decisions/2024-pot --by unit pot --q 0.001
  python jobs/label.py --scores s3://b/scores/2024 --decisions s3://b/decisions/2024-units --pool-sensors percentile
  python jobs/label.py --scores s3://b/scores/may --decisions s3://b/decisions/may --persist 3 5 --unit-reference s3://b/scores/2024 mad

Without trusted normals a cut picks a rate of the corpus, not a false-alarm probability; --labels with --normals-only (or the method
conformal) fits it on records that a person calls normal. MAD is a rule and promises no rate.

A unit is in alarm where k of its last n windows are rare against its sensors' own reference: the records of --unit-reference, else (with
--normals-only) those labelled normal, else the earliest of each sensor. It says how often a healthy fleet would raise one.
"""

from dataclasses import dataclass
from typing import Annotated

import tyro

from vibray.decide.thresholds import ConformalConfig, MadConfig, PercentileConfig, PotConfig
from vibray.decide.unit_alarms import Combine, UnitConfig
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
    pool_sensors: bool = False
    """judge each record by the mean score of its unit's sensors at the same time: what shakes a machine is heard by all of them"""
    labels: str | None = None
    """labels file (JSON Lines): human labels win over any cut"""
    normals_only: bool = False
    """fit the cuts on the records labelled normal alone"""
    min_group_records: int = MIN_GROUP_RECORDS
    """fewer records than these: a group has the cuts of all"""
    round: int = 0
    """number of this round of pseudo-labels"""
    unit_window: float = UnitConfig.window_minutes
    """minutes: records of a unit's sensors within such a window are judged together"""
    persist: tuple[int, int] = UnitConfig.persist
    """k n: a unit is in alarm where at least k of its last n windows exceed"""
    unit_rate: float = UnitConfig.rate
    """a window exceeds where its p-value is at most this"""
    fdr: float = UnitConfig.fdr
    """false-discovery rate over the fleet, for the newest window of each unit (Benjamini-Hochberg)"""
    unit_combine: Combine = UnitConfig.combine
    """how p-values of a window become one: tippett holds its rate where a unit's sensors rise and fall together, the others do not"""
    unit_reference: tuple[str, ...] = ()
    """finished scores tables of the same run, of other corpora, taken as healthy: what each sensor is compared with"""
    reference_records: int = UnitConfig.reference_records
    """without --unit-reference: so many of the earliest usable records of each sensor, at most half of them, are its reference"""
    dry_run: bool = False
    """print cuts and counts; write nothing"""
    method: Annotated[Method, tyro.conf.arg(name="")] = MadConfig()


def main(args: Label) -> None:
    units = UnitConfig(args.unit_window, args.persist, args.unit_rate, args.fdr, args.unit_combine, args.reference_records)
    label(
        args.scores,
        args.decisions,
        args.method,
        args.by,
        args.labels,
        args.normals_only,
        args.min_group_records,
        args.round,
        args.dry_run,
        units,
        args.unit_reference,
        args.pool_sensors,
    )


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Label, description=__doc__))
