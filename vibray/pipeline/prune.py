"""Pruning: a finished run's net made smaller and trained a little further, as a run of its own."""

from vibray.fitting.data import TrainingError
from vibray.fitting.jobs import PruneJob, TrainJob
from vibray.fitting.pruned import net_mflop, pruned_recipe, size_of
from vibray.pipeline.train import train_on
from vibray.recipes import DeepRecipe
from vibray.runs import load
from vibray.storage import objects
from vibray.tables import open_features


def prune(job: PruneJob) -> None:
    """Runs the stage; see jobs/prune.py. It is a training that starts from the run: resumed, shared out and found finished as any other."""
    run_uri, pruned_uri, features = objects.absolute(job.run), objects.absolute(job.pruned), tuple(map(objects.absolute, job.features))
    dense = load(run_uri)
    recipe = pruned_recipe(dense.recipe, job.share, job.epochs, dense.facts.mains_hz)
    assert isinstance(dense.recipe, DeepRecipe)
    table = open_features(features)
    if table.facts != dense.facts:
        raise TrainingError(
            f"--features and --run are of other records:\n  {', '.join(features)}: {table.facts}\n  {run_uri}: {dense.facts}"
        )
    before, after = (net_mflop(one, dense.facts.mains_hz) for one in (dense.recipe, recipe))
    print(f"{size_of(dense.recipe)} -> {size_of(recipe)}: {before:,.1f} -> {after:,.1f} MFLOP a record ({after / before:.1%})")
    train_on(
        TrainJob(
            features,
            pruned_uri,
            recipe,
            init_from=run_uri,
            num_workers=job.num_workers,
            cache_gb=job.cache_gb,
            local=job.local,
            dry_run=job.dry_run,
        ),
        recipe,
        table,
    )
