"""Do pseudo-labels help? Rounds of train, score, label and classify, and beside them the labels alone and Deep SAD.

  python jobs/rounds.py --features s3://b/features/a s3://b/features/labelled \\
      --labels labels.jsonl --rounds s3://b/rounds/a

Labels of whole units are held out (or give --held-out FILE): they judge and never teach. Round 1 takes its pseudo-labels from the default
detector, each later one from the classifier before it; a person's labels stand as they are. Rounds end where the figure on the labels held
out stops rising, and the last line says whether they were worth it. On generated fleets they were not: labels and pseudo-labels are level
with the labels alone.

Each run, table and decision lies in a folder of its own below --rounds, as every job leaves it. The same command again goes on where it
stopped.
"""

import tyro

from vibray.pipeline.ending import user_errors
from vibray.pipeline.jobs import RoundsJob, help_text


def main(job: RoundsJob) -> None:
    from vibray.pipeline.rounds import rounds

    rounds(job)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(RoundsJob, description=help_text(__doc__)))
