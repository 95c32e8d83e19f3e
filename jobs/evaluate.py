"""Judge a scores table against labels: areas by fault and unit, their spread over units, and what a cut keeps of its nominal rate.

  python jobs/evaluate.py --scores s3://b/scores/test --labels test.jsonl \\
      --decisions s3://b/decisions/2024-mad --output test.json

AUROC, AUPRC with prevalence, partial AUROC up to a false-positive rate of .1; at the cut recall and realised false-alarm rate, of the
records labelled normal, with exact intervals beside the nominal rate. No cut is chosen here: --decisions brings it.

Where several sensors of a unit have records of one time, the areas of their mean scores stand beside those of the records; cuts that were
made on such means (label --pool-sensors) are judged on them.

A classifier is judged at a probability of .5 unless --decisions brings cuts; macro-F1 is over the faults labelled in both sets.
"""

import tyro

from vibray.pipeline.ending import user_errors
from vibray.pipeline.jobs import EvaluateJob, help_text


def main(job: EvaluateJob) -> None:
    from vibray.pipeline.evaluate import evaluate

    evaluate(job)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(EvaluateJob, description=help_text(__doc__)))
