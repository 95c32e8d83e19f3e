"""Distil a slow run's scores into a gate: a cheap prediction of them, for jobs/score.py --cascade.

  python jobs/distil.py --features s3://b/features/pool \\
      --scores s3://b/scores/pool --gate s3://b/gates/a
  python jobs/score.py --run s3://b/runs/a --cascade s3://b/gates/a \\
      --input s3://b/raw/b --scores s3://b/scores/b --sample-rate-hz 8192

--features and --scores are of the same shards, the scores by the run itself. It prints how the cascade's flagged records agree with the
run's own, by the share of records that the run sees, each record judged by a fit that has not seen it.
"""

import tyro

from vibray.pipeline.ending import user_errors
from vibray.pipeline.jobs import DistilJob, help_text


def main(job: DistilJob) -> None:
    from vibray.pipeline.distil import distil

    distil(job)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(DistilJob, description=help_text(__doc__)))
