"""Judge a scores table against labels: areas by fault and unit, their spread over units, and what a cut keeps of its nominal rate.

  python jobs/evaluate.py --scores s3://b/scores/test --labels test_labels.jsonl --decisions s3://b/decisions/2024-mad --output test.json

AUROC, AUPRC with prevalence, partial AUROC up to a false-positive rate of .1; at the cut recall and realised false-alarm rate, of the
records labelled normal, with exact intervals beside the nominal rate. No cut is chosen here: --decisions brings it.
Where several sensors of a unit have records of one time, the areas of their mean scores stand beside those of the records; cuts that were
made on such means (label --pool-sensors) are judged on them.
A classifier is judged at a probability of .5 unless --decisions brings cuts; macro-F1 is over the faults labelled in both sets.
"""

from dataclasses import dataclass

import tyro

from vibray.pipeline.evaluation import evaluate
from vibray.pipeline.session import user_errors


@dataclass(frozen=True)
class Evaluate:
    scores: tuple[str, ...]
    """finished scores tables of one run; a label row is looked for in all of them"""
    labels: str
    """labels file (JSON Lines)"""
    decisions: str | None = None
    """decisions folder whose cuts are judged"""
    output: str | None = None
    """JSON file for everything that is printed, and more; default: evaluation.json in the first scores folder"""
    dry_run: bool = False
    """print the figures; write nothing"""


def main(args: Evaluate) -> None:
    evaluate(args.scores, args.labels, args.decisions, args.output, args.dry_run)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Evaluate, description=__doc__))
