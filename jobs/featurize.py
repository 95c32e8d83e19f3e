"""Read jsonl shards, set bad lines aside and write the features table: waveforms and the vectors made from them.

Example, on 10,000 Hz gearbox records whose sensors are named gbx01-a1, gbx01-a2, ...:

  python jobs/featurize.py --input s3://bucket/raw/2024 --features s3://bucket/features/2024 \\
      --sample-rate-hz 10000 --unit-pattern '^(gbx\\d+)-' --mains none

Shards are .jsonl, .jsonl.gz, .jsonl.zst, or .json holding a list of records. The same command again goes on where it stopped. Every
line that is not blank ends in exactly one of two tables: records, or lines set aside with shard, offset and reason.
"""

from dataclasses import dataclass
from typing import Literal

import tyro

from vibray.pipeline.featurize import VECTORS, featurize
from vibray.pipeline.session import started, user_errors
from vibray.storage.corpus import CorpusFacts, read_units


@dataclass(frozen=True)
class Featurize:
    input: str
    """folder of shards (or one shard): s3://bucket/folder or a path"""
    features: str
    """folder for the features table; it holds this one table"""
    sample_rate_hz: float
    """samples a second; no record says it"""
    corpus: str | None = None
    """name of the corpus in every key; default: the last segment of --input"""
    num_samples: int = 8192
    """samples of a record"""
    unit_pattern: str | None = None
    """regular expression searched in sensor_id, then in the shard's key; its group 1 is the unit"""
    units: str | None = None
    """CSV file with the columns sensor_id and unit, instead of a pattern"""
    timezone: str = "UTC"
    """zone of times that name none, as Europe/Berlin"""
    mains: Literal["50", "60", "none"] = "50"
    """mains frequency in Hz; none for machines without a mains line"""
    signal_unit: Literal["unknown", "g", "m/s2"] = "unknown"
    """physical unit of the samples"""
    wrong_length: Literal["quarantine", "fit"] = "quarantine"
    """records of another length are set aside, or fitted (cut or padded with zeros, and counted)"""
    vectors: tuple[Literal["spectral", "zerone", "harmonic"], ...] = VECTORS
    """vector features to store; one that this rate, length or mains does not allow is left out and named"""
    lines_per_part: int = 2000
    """records in a part, the unit of restart"""
    store_images: bool = False
    """store an image of each record too (float16, 50 to 100 kB; jobs make them anew as they need them)"""
    image: Literal["default", "seed"] = "default"
    """which image --store-images keeps: the default CWT image, or the original plan's"""
    dry_run: bool = False
    """print the plan, the cost and the first bad lines; write nothing"""


def main(args: Featurize) -> None:
    facts = CorpusFacts(
        args.sample_rate_hz,
        args.num_samples,
        args.unit_pattern,
        None if args.units is None else read_units(args.units),
        args.timezone,
        args.mains,
        args.signal_unit,
        args.wrong_length,
    )
    with started(needed=not args.dry_run):
        image = args.image if args.store_images else None
        featurize(args.input, args.features, facts, args.corpus, args.vectors, args.lines_per_part, image, args.dry_run)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Featurize, description=__doc__))
