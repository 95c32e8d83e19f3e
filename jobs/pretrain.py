"""Make the weights of the context scorer again: a net that is shown faults of generated transformers against few records of each.

  python jobs/pretrain.py --run s3://b/pretrained/a
  python jobs/pretrain.py --run s3://b/pretrained/without-dc-bias \\
      --training.faults winding_looseness core_looseness tap_changer fan_bearing

The default recipe has this net as one of its parts, and `zero-shot` is the net alone. The weights that are shipped were made by the first
command; copied over vibray/models/context_scorer.safetensors they are the default's. Runs keep the weights that they were trained with.

Each fleet is generated on a worker and its examples are kept in the folder: the same command goes on where it was stopped.
"""

import tyro

from vibray.fitting.jobs import PretrainJob
from vibray.pipeline.ending import user_errors
from vibray.pipeline.jobs import help_text


def main(job: PretrainJob) -> None:
    from vibray.pipeline.pretrain import pretrain

    pretrain(job)


if __name__ == "__main__":
    with user_errors():
        main(tyro.cli(PretrainJob, description=help_text(__doc__)))
