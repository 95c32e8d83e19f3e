"""One worker and two: the same losses, weights, centre, radius and figures. Two processes on torch.distributed, spawned once."""

import numpy as np
import pytest
import torch
from torch.multiprocessing.spawn import spawn

from tests.train import cases
from vibray.models.backbone import TrunkConfig, batch_norms
from vibray.models.deep_svdd import DeepSvdd, DeepSvddConfig
from vibray.train.reduce import World, distributed


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory) -> list[dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("workers")
    spawn(cases.work, args=(2, str(folder)), nprocs=2)
    return [dict(np.load(folder / f"rank{rank}.npz", allow_pickle=False)) for rank in range(2)]


@pytest.fixture(scope="module")
def one_worker() -> dict[str, np.ndarray]:
    return cases.flat({name: case() for name, case in cases.cases().items()})


def compare(one: dict[str, np.ndarray], two: list[dict[str, np.ndarray]], case: str, figures: str, tolerance: float) -> None:
    keys = [key for key in one if key.startswith(f"{case}:{figures}")]
    assert keys
    for key in keys:
        for rank in range(2):
            np.testing.assert_allclose(two[rank][key], one[key], rtol=tolerance, atol=tolerance, err_msg=f"{key}, rank {rank}")


@pytest.mark.parametrize("stage", cases.STAGES)
def test_losses_of_the_first_3_steps_in_float32(one_worker, two_workers, stage):
    assert len(one_worker[f"{stage}-float32:losses"]) == 3
    compare(one_worker, two_workers, f"{stage}-float32", "losses", 1e-4)


@pytest.mark.parametrize("stage", cases.STAGES)
def test_losses_of_20_steps_in_float64(one_worker, two_workers, stage):
    assert len(one_worker[f"{stage}-float64:losses"]) >= 20
    compare(one_worker, two_workers, f"{stage}-float64", "losses", 1e-6)
    compare(one_worker, two_workers, f"{stage}-float64", "w/", 1e-6)


@pytest.mark.parametrize("stage", ["soft_boundary", "pretraining"])
def test_a_worker_whose_slice_is_empty_takes_part(one_worker, two_workers, stage):
    compare(one_worker, two_workers, f"{stage}-empty", "losses", 1e-6)


@pytest.mark.parametrize("num_first", [5, 3, 0])
def test_batch_norm_has_the_statistics_of_the_global_batch(one_worker, two_workers, num_first):
    compare(one_worker, two_workers, f"batch_norm-{num_first}", "", 1e-12)


def test_centre_and_radius_from_the_same_weights(one_worker, two_workers):
    compare(one_worker, two_workers, "sphere", "", 1e-5)


def test_every_stage_of_deep_svdd(one_worker, two_workers):
    compare(one_worker, two_workers, "svdd", "", 1e-6)


def test_classifier_with_unfreezing_and_dropout(one_worker, two_workers):
    compare(one_worker, two_workers, "classifier", "", 1e-6)


def test_no_wrapper_outlives_its_training(two_workers):
    assert all(results["wrappers:alive"] == 0 for results in two_workers)


def test_one_worker_needs_no_process_group():
    world = World.current()
    assert world == World(0, 1)
    assert world.sum(torch.tensor([1.5, 2.0])).tolist() == [1.5, 2.0]
    assert world.gather(np.arange(3)).tolist() == [0, 1, 2]
    net = DeepSvdd(DeepSvddConfig(trunk=TrunkConfig(width=4)), (1, 32, 32))
    with distributed(net, world) as forward:
        assert forward is net
        assert all(norm.reduce is None for norm in batch_norms(net))
