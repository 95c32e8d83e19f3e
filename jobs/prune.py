"""Prune a trained net and fine-tune what is left: a run of the same recipe, smaller.

  python jobs/prune.py --run s3://b/runs/plain --pruned s3://b/runs/narrow \\
      --features s3://b/features/a
  python jobs/score.py --run s3://b/runs/narrow --input s3://b/raw/b \\
      --scores s3://b/scores/b --sample-rate-hz 8192

The channels that the layers behind them weigh least are removed until --share of the operations is left; then the net is trained a little
further by its own recipe on the records of --features. Centre, scaling and what is known of the sensors stay those of --run.

The same command again goes on where it stopped.
"""

import tyro

from vibray.fitting.jobs import PruneJob
from vibray.pipeline.ending import user_errors
from vibray.pipeline.jobs import help_text


def main(job: PruneJob) -> None:
    from vibray.pipeline.train import prune

    prune(job)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(PruneJob, description=help_text(__doc__)))
