"""Do the arguments of a training fit one another, its runs and its features? Said before anything is written."""

from dataclasses import replace

from vibray.fitting.classifier import encoder_of
from vibray.fitting.data import TrainingError
from vibray.fitting.jobs import TrainJob
from vibray.fitting.pretraining import from_pretrained, read_pretrained
from vibray.models.band_transformer import BandTransformerConfig
from vibray.models.deep_sad import DeepSadConfig
from vibray.recipes.kinds import ClassicalRecipe, ClassifierRecipe, DeepRecipe, DiagnosisRecipe, EnsembleRecipe, Recipe
from vibray.runs.folder import load
from vibray.storage import objects
from vibray.tables.training import TrainingTable

OF_A_RECORD = ("sample_rate_hz", "num_samples", "mains", "signal_unit")
"""Facts of a corpus that decide what a record's features are."""


def absolute(job: TrainJob) -> TrainJob:
    """The job with whole URIs."""

    def one(uri: str | None) -> str | None:
        return None if uri is None else objects.absolute(uri)

    return replace(
        job,
        features=tuple(objects.absolute(uri) for uri in job.features),
        run=objects.absolute(job.run),
        labels=one(job.labels),
        pseudo_labels=one(job.pseudo_labels),
        init_from=one(job.init_from),
        members=tuple(objects.absolute(uri) for uri in job.members),
    )


def check_arguments(job: TrainJob) -> None:
    """Raises TrainingError where an option does not go with the recipe, or one that it needs is missing."""
    net, classifier = isinstance(job.recipe, ClassifierRecipe), isinstance(job.recipe, ClassifierRecipe | DiagnosisRecipe)
    if job.members and not isinstance(job.recipe, EnsembleRecipe):
        raise TrainingError("--members goes with the ensemble recipe alone: put `ensemble` last on the line")
    deep = job.recipe if isinstance(job.recipe, DeepRecipe) else None
    bands = None if deep is None or not isinstance(deep.detector, BandTransformerConfig) else deep.detector
    learns = bands is not None and deep is not None and deep.optim.epochs > 0
    if job.pseudo_labels and not classifier:
        raise TrainingError("--pseudo-labels goes with a classifier's recipe alone: put `classifier` last on the line")
    if job.init_from and not net and bands is None:
        raise TrainingError(
            "--init-from goes with a net that classifies images (cwt-classifier), a band-transformer or an adapter: put one of these last "
            "on the line"
        )
    if bands is not None and not job.init_from and (bands.adapter or not learns):
        raise TrainingError("a pretrained net is needed: --init-from and a folder of `jobs/pretrain.py ... band-transformer`")
    if classifier and not job.labels:
        raise TrainingError("a classifier needs --labels: records labelled normal or by the name of their fault")
    if classifier and job.normals_only:
        raise TrainingError("--normals-only is for detectors: a classifier needs faults too")
    if job.search_pool and (classifier or job.normals_only or not job.labels):
        raise TrainingError("--search-pool is for detectors, with --labels and without --normals-only: it leaves labelled records out")
    if job.normals_only and not job.labels:
        raise TrainingError("--normals-only needs --labels: it fits a detector on the records labelled normal alone")
    sad = isinstance(job.recipe, DeepRecipe) and isinstance(job.recipe.detector, DeepSadConfig)
    if sad and not job.labels:
        raise TrainingError("Deep SAD needs --labels: a JSON Lines file of records labelled normal or by the name of their fault")
    if sad and job.normals_only:
        raise TrainingError("--normals-only leaves Deep SAD nothing to learn from labels: leave it out, or take cwt-svdd")
    if job.labels and not (classifier or sad or learns or job.normals_only or job.search_pool):
        raise TrainingError(
            "a detector learns without labels: leave --labels out, or add --normals-only to fit it on the trusted normals alone"
        )


def adopted(job: TrainJob) -> Recipe:
    """The recipe, a classifier's image and trunk being those of the run it starts from."""
    recipe = job.recipe
    if isinstance(recipe, EnsembleRecipe) and job.members:
        members = {objects.last_segment(uri): load(uri).recipe for uri in job.members}
        wrong = [name for name, member in members.items() if not isinstance(member, ClassicalRecipe | DeepRecipe)]
        if wrong or len(members) < len(job.members):
            raise TrainingError(
                f"--members: {', '.join(wrong) or 'two members of one name'}: give detectors' runs whose last segments differ"
            )
        fusion = recipe.fusion
        if {name for name, _ in fusion.weights} != set(members):
            print(f"the members weigh alike: the recipe's weights are of {', '.join(name for name, _ in fusion.weights)}")
            fusion = replace(fusion, weights=tuple((name, 1.0) for name in members))
        return replace(recipe, members=members, fusion=fusion)  # type: ignore[arg-type]
    if isinstance(recipe, DeepRecipe) and isinstance(recipe.detector, BandTransformerConfig) and job.init_from:
        return from_pretrained(recipe, read_pretrained(job.init_from))
    if isinstance(recipe, ClassifierRecipe) and job.init_from and recipe.image is not None:
        member = encoder_of(load(job.init_from)).recipe
        assert isinstance(member, DeepRecipe) and member.trunk is not None
        print(f"the classifier takes image, scaling and encoder from {job.init_from}")
        detector = replace(recipe.detector, trunk=member.trunk)
        return replace(recipe, image=member.feature, image_scaling=member.scaling, detector=detector)
    return recipe


def check_members(job: TrainJob, recipe: Recipe, table: TrainingTable) -> None:
    """Raises TrainingError where an ensemble's weights are not of its members, or a member was trained on records of another kind."""
    if not isinstance(recipe, EnsembleRecipe):
        return
    weighed = {name for name, _ in recipe.fusion.weights}
    if weighed != set(recipe.members):
        raise TrainingError(f"--fusion.weights names {', '.join(sorted(weighed))}, the members are {', '.join(sorted(recipe.members))}")
    for uri in job.members:
        facts = load(uri).facts
        for name in OF_A_RECORD:
            there, here = getattr(facts, name), getattr(table.facts, name)
            if there != here:
                raise TrainingError(
                    f"--members {uri} was trained on other records than --features holds: {name} {there} there, {here} here"
                )
