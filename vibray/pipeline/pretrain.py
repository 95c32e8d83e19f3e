"""Pretraining: generated fleets to the weights of the context scorer, fleet by fleet on any number of workers."""

import json
from functools import partial

import safetensors.torch
import torch

from vibray.config import UserError, environment, to_json
from vibray.fitting.context_scorer import ContextScorerTraining, Examples, examples_of, fit_context_net
from vibray.fitting.jobs import PretrainJob
from vibray.pipeline.local import map_here, one_thread, works_alone
from vibray.pipeline.progress import Bars
from vibray.storage import objects
from vibray.storage.parts import finish_folder
from vibray.storage.plan import begin_folder

WEIGHTS = "context_scorer.safetensors"


class PretrainingMismatch(UserError):
    """The folder holds another pretraining."""


def pretrain(job: PretrainJob) -> None:
    """Runs the stage; see jobs/pretrain.py. The same job on a finished folder says so; on one that was stopped it goes on."""
    uri, training = objects.absolute(job.run), job.training
    print(f"{training.fleets} fleets of {training.units} machines with {training.records} records: {', '.join(training.faults)}")
    if job.dry_run:
        print("dry run: nothing was written")
        return
    begin_folder(uri, "pretraining.json", {"training": to_json(training)}, "by another pretraining", PretrainingMismatch)
    if objects.exists(objects.join(uri, "_done.json")):
        print(f"{uri} is finished already: nothing to do")
        return
    work, todo = partial(make_examples, uri=uri, training=training), list(range(training.fleets))
    if works_alone(job.local, len(todo)):
        names = list(map_here("fleets")(work, todo))
    else:
        from vibray.pipeline import session
        from vibray.pipeline.workers import map_on_ray

        with session.started():
            names = list(map_on_ray("fleets")(work, todo))
    one_thread()
    examples, lines = [read_examples(objects.join(uri, name)) for name in names], []
    num, num_faulty = sum(len(each.z) for each in examples), sum(int((each.fault >= 0).sum()) for each in examples)
    print(f"{num:,} examples, {num_faulty:,} of them faulty")
    with Bars() as bars:

        def tell(epoch: int, loss: float) -> None:
            lines.append({"epoch": epoch, "loss": loss})
            bars.tell("training", epoch + 1, training.epochs, loss=f"{loss:.4g}")

        net = fit_context_net(examples, training, tell)
    objects.write_bytes(objects.join(uri, WEIGHTS), safetensors.torch.save(dict(net.state_dict())))
    objects.write_json(objects.join(uri, "environment.json"), environment())
    objects.write_bytes(objects.join(uri, "metrics.jsonl"), "".join(json.dumps(line) + "\n" for line in lines).encode())
    finish_folder(uri, ["pretraining.json", WEIGHTS, "environment.json", "metrics.jsonl"])
    print(f"the weights are {objects.join(uri, WEIGHTS)}")


def make_examples(number: int, uri: str, training: ContextScorerTraining) -> str:
    """On a worker: writes a fleet's examples unless they stand there. Returns the file's name."""
    name = f"examples/{number:04d}.safetensors"
    if not objects.exists(objects.join(uri, name)):
        made = examples_of(training.fleet(number), training.spoiled)
        tensors = {"z": torch.from_numpy(made.z), "fault": torch.from_numpy(made.fault)}
        objects.write_bytes(objects.join(uri, name), safetensors.torch.save(tensors))
    return name


def read_examples(uri: str) -> Examples:
    """The examples of a fleet, as `make_examples` left them."""
    tensors = safetensors.torch.load(objects.read_bytes(uri))
    return Examples(tensors["z"].numpy(), tensors["fault"].numpy())
