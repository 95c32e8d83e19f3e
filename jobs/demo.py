"""The whole line on a generated fleet of transformers, with embedded storage and an embedded Ray: a few minutes on two cores.

  python jobs/demo.py                 everything under ./demo
  python jobs/demo.py --s3            the same through an S3 endpoint on this machine's loopback (pip install -e '.[test]')

Images are small and the networks narrow, so the figures show that the line works, not what it can do. The same command again skips
what is done; remove the folder to start anew.
"""

from dataclasses import dataclass

import tyro

from vibray.pipeline.demo import demo, local_s3
from vibray.pipeline.session import started, user_errors


@dataclass(frozen=True)
class Demo:
    folder: str = "demo"
    """where everything is written; with --s3, a folder of the bucket"""
    s3: bool = False
    """store everything through an S3 endpoint over HTTP, started here; its content ends with the job, the report is copied to --folder"""
    num_units: int = 8
    """transformers in the fleet"""
    sensors_per_unit: int = 2
    """sensors on each"""
    epochs: int = 12
    """epochs of each network"""


def main(args: Demo) -> None:
    if not args.s3:
        with started():
            demo(args.folder, args.num_units, args.sensors_per_unit, args.epochs)
        return
    with local_s3() as bucket, started():
        demo(f"{bucket}/{args.folder}", args.num_units, args.sensors_per_unit, args.epochs, report_to=args.folder)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(Demo, description=__doc__))
