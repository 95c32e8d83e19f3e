"""Score raw shards with a finished run: one pass, part by part, every record exactly once.

  python jobs/score.py --run s3://b/runs/a --input s3://b/raw/2024 --scores s3://b/scores/2024 --sample-rate-hz 8192

The run folder knows recipe, unit pattern, time zone and mains. The same command again goes on where it stopped. A classifier's run
fills the diagnoses: abnormal_probability (which is the score), the fault and its probability.
"""

from dataclasses import dataclass

import tyro

from vibray.pipeline.scoring import CASCADE_SHARE, EVIDENCE_PER_PART, score
from vibray.pipeline.session import started, user_errors
from vibray.storage.plan import LINES_PER_PART


@dataclass(frozen=True)
class Score:
    run: str
    """finished run"""
    input: str
    """folder of shards, or one shard"""
    scores: str
    """folder for the scores table; it holds this one table"""
    sample_rate_hz: float
    """samples a second of the input; must be the run's"""
    corpus: str | None = None
    """name of the corpus in every key; default: the last segment of --input"""
    calibration: str | None = None
    """calibration of sensors that the run does not know (jobs/calibrate.py)"""
    since_plan: str | None = None
    """an earlier job's --scores over the same input: what it (or one it continued) scored unchanged is left out, what changed is named"""
    cascade: str | None = None
    """gate of this run (jobs/distil.py): the run sees the records alone for which it predicts a high score, the others keep the prediction;
    the column `deep` says which"""
    cascade_share: float = CASCADE_SHARE
    """share of the records that the run sees, as counted on the corpus of the gate"""
    lines_per_part: int = LINES_PER_PART
    """records in a part, the unit of restart"""
    evidence_per_part: int = EVIDENCE_PER_PART
    """highest records of a part kept with their waveforms, for the report"""
    dry_run: bool = False
    """print the plan, the cost and the first bad lines; write nothing"""


def main(args: Score) -> None:
    with started(needed=not args.dry_run):
        score(
            args.run,
            args.input,
            args.scores,
            args.sample_rate_hz,
            args.corpus,
            args.calibration,
            args.lines_per_part,
            args.evidence_per_part,
            args.dry_run,
            args.since_plan,
            args.cascade,
            args.cascade_share,
        )


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Score, description=__doc__))
