"""Read jsonl shards, set bad lines aside and write the features table: waveforms and the vectors made from them.

Example, on 10,000 Hz gearbox records whose sensors are named gbx01-a1, gbx01-a2 and so on:

  python jobs/featurize.py --input s3://b/raw/a --features s3://b/features/a \\
      --sample-rate-hz 10000 --unit-pattern '^(gbx\\d+)-' --mains none

Shards are .jsonl (or .ndjson), or .json holding a list of records, each with .gz, .zst or neither behind. Every line that is not blank
ends in exactly one of two tables: records, or lines set aside with shard, offset and reason. The same command again goes on where it
stopped.
"""

import tyro

from vibray.pipeline.ending import user_errors
from vibray.pipeline.jobs import FeaturizeJob, help_text


def main(job: FeaturizeJob) -> None:
    from vibray.pipeline.featurize import featurize

    featurize(job)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(FeaturizeJob, description=help_text(__doc__)))
