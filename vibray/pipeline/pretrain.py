"""Pretraining: several corpora and generated fleets to one net that has been trained on none of the machines that it will meet."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import safetensors.torch

from vibray.config import UserError, environment, short_hash, to_json
from vibray.fitting.examples import HEALTHY, Examples, make_source
from vibray.fitting.jobs import PretrainJob
from vibray.fitting.pretraining import PretrainingRecipe, describe, pretrained
from vibray.fitting.worker import Place, alone
from vibray.models.context_scorer import ContextScorerConfig
from vibray.pipeline.local import map_here, one_thread, works_alone
from vibray.pipeline.logs import Bars
from vibray.recipes.building import build_feature
from vibray.runs.folder import write_metrics
from vibray.storage import objects
from vibray.storage.corpus import one_corpus_each
from vibray.storage.parts import Parts, finish_folder, identity_hash
from vibray.storage.plan import begin_folder
from vibray.tables.training import open_features
from vibray.train.checkpoints import Checkpoints
from vibray.train.fit import Report, silent

WEIGHTS = "model.safetensors"


class PretrainingMismatch(UserError):
    """The folder holds another pretraining."""


@dataclass(frozen=True)
class Task:
    """What a worker is asked: the examples of one source, a fleet's number or the URI of a features table."""

    run: str
    recipe: PretrainingRecipe
    source: int | str

    @property
    def uri(self) -> str:
        """The file that holds them."""
        name = f"fleet-{self.source:04d}" if isinstance(self.source, int) else f"table-{short_hash(self.source)}"
        return objects.join(self.run, "examples", name + ".safetensors")


def pretrain(job: PretrainJob) -> None:
    """Runs the stage; see jobs/pretrain.py. The same job on a finished folder says so; on one that was stopped it goes on."""
    job = replace(job, run=objects.absolute(job.run), features=tuple(objects.absolute(uri) for uri in job.features))
    recipe, uri = job.recipe, job.run
    fleets = recipe.fleets.count if job.fleets is None else job.fleets
    if fleets < 0 or not (fleets or job.features):
        raise UserError("pretrain: --fleets is a number of generated fleets, at least 0, and without any --features has to be given")
    tables = [open_features([one]) for one in job.features]
    one_corpus_each(job.features, [next(iter(table.corpora)) for table in tables])
    tasks = [Task(uri, recipe, source) for source in (*range(fleets), *job.features)]
    print(f"{recipe.detector.kind} on {fleets} fleets of {recipe.fleets.units} machines: {', '.join(recipe.fleets.faults)}")
    for table in tables:
        facts = table.facts
        if facts.mains_hz is None and isinstance(recipe.detector, ContextScorerConfig):
            raise UserError(
                f"{', '.join(table.corpora.values())} has no mains frequency, whose lines the context scorer reads: leave it out"
            )
        build_feature(recipe.feature, facts.mains_hz).check(facts.sample_rate_hz, facts.num_samples)
        print(
            f"  and {', '.join(table.corpora)}: {len(table):,} records of {len(table.sensors.names)} sensors at {facts.sample_rate_hz:g} Hz"
        )
    if job.dry_run:
        print("dry run: nothing was written")
        return
    identity = {"fleets": fleets, "features": {one: identity_hash([Parts(one)]) for one in job.features}}
    values = {"recipe": to_json(recipe), "hash": short_hash(recipe), "identity": identity}
    begin_folder(uri, "recipe.json", values, "by another pretraining", PretrainingMismatch)
    if objects.exists(objects.join(uri, "_done.json")):
        print(f"{uri} is finished already: nothing to do")
        return
    work = partial(teach, uris=[task.uri for task in tasks], weights=weights_of(fleets, len(tables)), recipe=recipe, run=uri)
    if job.num_workers == 1 and works_alone(job.local, len(tasks)):
        for _ in map_here("examples")(make_examples, tasks):
            pass
        one_thread()
        with Bars() as bars, alone(bars.tell) as place:
            work(place, silent)
    else:
        from vibray.pipeline import session
        from vibray.pipeline.workers import map_on_ray, on_workers

        with session.started():
            for _ in map_on_ray("examples")(make_examples, tasks):
                pass
            on_workers(work, uri, job.num_workers, session.num_gpus() > 0)
    print(f"the weights are {objects.join(uri, WEIGHTS)}")


def weights_of(fleets: int, tables: int) -> list[float]:
    """A corpus counts as much as all fleets together, whatever its size."""
    return [1 / max(1, fleets)] * fleets + [1.0] * tables


def make_examples(task: Task) -> None:
    """On a worker: writes a source's examples unless they stand there."""
    if objects.exists(task.uri):
        return
    recipe, source = task.recipe, task.source
    number = source if isinstance(source, int) else int(short_hash(source), 16) % 2**32
    try:
        made = describe(recipe, *make_source(source, recipe.feature, recipe.fleets, recipe.context), number)
    except UserError as error:
        raise UserError(f"{source if isinstance(source, str) else f'fleet {source}'}: {error}") from error
    objects.write_bytes(task.uri, safetensors.torch.save(made.tensors()))


def read_examples(uri: str) -> Examples:
    """The examples of a source, as `make_examples` left them."""
    return Examples.load(safetensors.torch.load(objects.read_bytes(uri)))


def teach(place: Place, also: Report, uris: Sequence[str], weights: Sequence[float], recipe: PretrainingRecipe, run: str) -> None:
    """On each worker of a group: the examples to a net, and a finished folder."""
    checkpoints, examples = Checkpoints(run), [read_examples(uri) for uri in uris]
    if place.world.rank == 0:
        num, num_faulty = sum(map(len, examples)), sum(int((each.fault != HEALTHY).sum()) for each in examples)
        place.tell(f"{num:,} examples, {num_faulty:,} of them faulty", 0, 0)

    def report(stage: str, epoch: int, figures: dict[str, Any]) -> None:
        also(stage, epoch, figures)
        place.tell("training", epoch + 1, recipe.optim.epochs, loss=f"{figures['loss']:.4g}")

    net = pretrained(recipe, examples, weights, place.device, report, checkpoints)
    if place.world.rank == 0:
        tensors = {name: tensor.cpu().contiguous() for name, tensor in net.state_dict().items()}
        objects.write_bytes(objects.join(run, WEIGHTS), safetensors.torch.save(tensors))
        objects.write_json(objects.join(run, "environment.json"), environment())
        write_metrics(run, checkpoints.lines)
        finish_folder(run, ["recipe.json", WEIGHTS, "environment.json", "metrics.jsonl"])
        checkpoints.clear()
    place.wait()
