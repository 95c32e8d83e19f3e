"""Write a synthetic fleet of transformers as jsonl shards, and its labels in a file of their own.

Example, 100,000 records of 40 transformers with 5 % faults, 1 % of broken lines on top:

  python jobs/synthesize.py --output s3://b/raw/fleet \\
      --labels s3://b/labels/fleet.jsonl --num-records 100000 \\
      --num-units 40 --broken-share 0.01 --shard-records 2000 --compression gz

Read it with --sample-rate-hz 8192 --unit-pattern '^(u\\d+)-'. The same command again goes on where it stopped.
"""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from vibray.pipeline.ending import user_errors
from vibray.pipeline.jobs import SynthesizeJob, help_text
from vibray.signal.synthetic import FleetConfig


@dataclass(frozen=True)
class Synthesize(SynthesizeJob):
    """The fields of the fleet stand beside the job's own."""

    fleet: Annotated[FleetConfig, tyro.conf.arg(name="")] = field(default_factory=FleetConfig)


def main(job: Synthesize) -> None:
    from vibray.pipeline.synthesize import synthesize

    synthesize(job)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Synthesize, description=help_text(__doc__)))
