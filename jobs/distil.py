"""Distil a deep run's scores into a gate: a cheap prediction of them, for jobs/score.py --cascade.

  python jobs/distil.py --features s3://b/features/pool --scores s3://b/scores/pool --gate s3://b/gates/a
  python jobs/score.py --run s3://b/runs/a --cascade s3://b/gates/a --input s3://b/raw/b --scores s3://b/scores/b --sample-rate-hz 8192

--features and --scores are of the same shards, the scores by the run itself. It prints how the cascade's flagged records agree with the
run's own, by the share of records that the run sees, each record judged by a fit that has not seen it.
"""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from vibray.models.gate import GateConfig
from vibray.pipeline.cascade import distil
from vibray.pipeline.session import user_errors


@dataclass(frozen=True)
class Distil:
    features: str
    """finished features table with the spectral vector"""
    scores: str
    """finished scores of the same shards by the deep run or ensemble"""
    gate: str
    """folder for the gate"""
    config: Annotated[GateConfig, tyro.conf.arg(name="")] = field(default_factory=GateConfig)
    """the gate"""
    dry_run: bool = False
    """say what would be fitted; write nothing"""


def main(args: Distil) -> None:
    distil(args.features, args.scores, args.gate, args.config, args.dry_run)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Distil, description=__doc__))
