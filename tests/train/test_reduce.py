"""One worker, two and four: the same losses, weights, centre, radius, figures. Spawned processes on torch.distributed."""

import numpy as np
import pytest
import torch
from torch.multiprocessing.spawn import spawn

from tests.train import cases
from vibray.models.backbone import TrunkConfig, batch_norms
from vibray.models.deep_svdd import DeepSvdd, DeepSvddConfig
from vibray.train.reduce import World, distributed

Results = dict[str, np.ndarray]


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def workers(request, tmp_path_factory) -> list[Results]:
    """What each of the workers got."""
    size, folder = request.param, tmp_path_factory.mktemp("workers")
    spawn(cases.work, args=(size, str(folder)), nprocs=size)
    return [dict(np.load(folder / f"rank{rank}.npz", allow_pickle=False)) for rank in range(size)]


@pytest.fixture(scope="module")
def one_worker() -> Results:
    return cases.flat({name: case() for name, case in cases.cases().items()})


def compare(one: Results, several: list[Results], case: str, figures: str, tolerance: float) -> None:
    keys = [key for key in one if key.startswith(f"{case}:{figures}")]
    assert keys
    for key in keys:
        for rank, own in enumerate(several):
            np.testing.assert_allclose(own[key], one[key], rtol=tolerance, atol=tolerance, err_msg=f"{key}, rank {rank} of {len(several)}")


@pytest.mark.parametrize("stage", cases.STAGES)
def test_losses_of_the_first_3_steps_in_float32(one_worker, workers, stage):
    assert len(one_worker[f"{stage}-float32:losses"]) == 3
    compare(one_worker, workers, f"{stage}-float32", "losses", 1e-4)


@pytest.mark.parametrize("stage", cases.STAGES)
def test_losses_of_20_steps_in_float64(one_worker, workers, stage):
    assert len(one_worker[f"{stage}-float64:losses"]) >= 20
    compare(one_worker, workers, f"{stage}-float64", "losses", 1e-6)
    compare(one_worker, workers, f"{stage}-float64", "w/", 1e-6)


@pytest.mark.parametrize("stage", ["soft_boundary", "pretraining", "bands"])
def test_a_worker_whose_slice_is_empty_takes_part(one_worker, workers, stage):
    compare(one_worker, workers, f"{stage}-empty", "losses", 1e-6)


OFF_BY_DEFAULT = [*(("pretraining", change) for change in cases.CHANGES), ("vae", "adversarial"), ("bands", "adversarial")]


@pytest.mark.parametrize(("stage", "change"), OFF_BY_DEFAULT)
def test_12_steps_of_what_is_off_by_default(one_worker, workers, stage, change):
    """Pretraining has batch norms in training mode, the VAE noise. Rounding grows tenfold in three steps: twenty would be too many."""
    compare(one_worker, workers, f"{stage}-{change}", "losses", 1e-6)
    compare(one_worker, workers, f"{stage}-{change}", "w/", 1e-6)
    assert not np.array_equal(one_worker[f"{stage}-{change}:losses"], one_worker[f"{stage}-float64:losses"][:12])


def test_a_worker_whose_slice_is_empty_takes_part_in_moving_the_inputs(one_worker, workers):
    compare(one_worker, workers, "one_class-adversarial-empty", "", 1e-6)


@pytest.mark.parametrize("num_first", [5, 3, 0])
def test_batch_norm_has_the_statistics_of_the_global_batch(one_worker, workers, num_first):
    compare(one_worker, workers, f"batch_norm-{num_first}", "", 1e-12)


def test_centre_and_radius_from_the_same_weights(one_worker, workers):
    compare(one_worker, workers, "sphere", "", 1e-5)


@pytest.mark.parametrize("trainer", cases.WHOLE)
def test_every_trainer_from_its_first_step_to_what_it_calibrates(one_worker, workers, trainer):
    """Losses, weights, centre, radius, metric, temperatures, scores; the number of workers divides no number of records."""
    compare(one_worker, workers, f"whole-{trainer}", "", 1e-6)


@pytest.mark.parametrize("trainer", ["one_class", "soft_boundary", "exposed", "deep_sad", "vae"])
def test_scores_and_radius_are_those_of_every_record(workers, trainer):
    """11 records, of which no tail is dropped: the scores are those of the trained net on each, the radius is numpy's quantile of them."""
    for own in workers:
        scores, direct = own[f"whole-{trainer}:scores"], own[f"whole-{trainer}:direct"]
        assert len(scores) == 11
        np.testing.assert_allclose(scores, direct, rtol=1e-9)
        if trainer == "vae":
            continue
        normal = np.delete(direct, [0, 6]) if trainer == "deep_sad" else direct  # known faults are outside by definition
        np.testing.assert_allclose(own[f"whole-{trainer}:w/radius"] ** 2, np.quantile(normal, 0.75), rtol=1e-6)


def test_no_wrapper_outlives_its_training(workers):
    assert all(own["wrappers:alive"] == 0 for own in workers)


def test_one_worker_needs_no_process_group():
    world = World.current()
    assert world == World(0, 1)
    assert world.sum(torch.tensor([1.5, 2.0])).tolist() == [1.5, 2.0]
    assert world.gather(np.arange(3)).tolist() == [0, 1, 2]
    net = DeepSvdd(DeepSvddConfig(trunk=TrunkConfig(width=4)), (1, 32, 32))
    with distributed(net, world) as forward:
        assert forward is net
        assert all(norm.reduce is None for norm in batch_norms(net))
