"""The whole line on a generated fleet of transformers, with embedded storage and an embedded Ray: a few minutes on two cores.

  python jobs/demo.py         everything under ./demo
  python jobs/demo.py --s3    the same through an S3 endpoint on this machine's
                              loopback (pip install -e '.[test]')

Images are small and the networks narrow, so the figures show that the line works, not what it can do. The same command again skips
what is done; remove the folder to start anew.
"""

import tyro

from vibray.pipeline.ending import user_errors
from vibray.pipeline.jobs import DemoJob, help_text


def main(job: DemoJob) -> None:
    from vibray.pipeline.demo import demo

    demo(job)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(DemoJob, description=help_text(__doc__)))
