"""Write a synthetic fleet of transformers as jsonl shards, and its labels in a file of their own.

Example, 100,000 records of 40 transformers with 5 % faults, 1 % of broken lines on top:

  python jobs/synthesize.py --output s3://bucket/raw/fleet --labels s3://bucket/labels/fleet.jsonl \\
      --num-records 100000 --num-units 40 --broken-share 0.01 --shard-records 2000 --compression gz

Read it with --sample-rate-hz 8192 --unit-pattern '^(u\\d+)-'. The same command again goes on where it stopped.
"""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from vibray.pipeline.session import started, user_errors
from vibray.pipeline.synthesis import Compression, synthesize
from vibray.signal.synthetic import FleetConfig


@dataclass(frozen=True)
class Synthesize:
    output: str
    """folder for the shards: s3://bucket/folder or a path"""
    labels: str
    """the labels file (.jsonl), outside --output"""
    fleet: Annotated[FleetConfig, tyro.conf.arg(name="")] = field(default_factory=FleetConfig)
    """the fleet"""
    shard_records: int = 200
    """records in a shard; a worker holds about 80 kB for each"""
    compression: Compression = "none"
    """of the shards: .jsonl, .jsonl.gz or .jsonl.zst"""
    truncated_shard: bool = False
    """one shard more, a gzip that breaks off within its only line"""
    dry_run: bool = False
    """print the plan and the cost; write nothing"""


def main(args: Synthesize) -> None:
    with started(needed=not args.dry_run):
        synthesize(args.output, args.labels, args.fleet, args.shard_records, args.compression, args.truncated_shard, args.dry_run)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Synthesize, description=__doc__))
