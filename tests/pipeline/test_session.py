"""What is found out before any work: versions and reach, in one line."""

import pytest

from vibray.config import versions
from vibray.pipeline import session
from vibray.pipeline.ending import ClusterError
from vibray.pipeline.session import NodeFacts, compare_nodes

HERE = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0"}


def test_nodes_that_run_the_same_and_reach_everything_pass():
    compare_nodes(HERE, [NodeFacts("10.0.0.1", HERE, ""), NodeFacts("10.0.0.2", dict(HERE), "")])


def test_a_node_of_another_version_is_named_in_one_line():
    other = NodeFacts("10.0.0.2", {**HERE, "torch": "2.12.0"}, "")
    with pytest.raises(ClusterError) as error:
        compare_nodes(HERE, [NodeFacts("10.0.0.1", HERE, ""), other])
    assert "10.0.0.2" in str(error.value)
    assert "torch 2.12.0 (driver: 2.13.0)" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_that_a_node_cannot_reach_is_named_in_one_line(tmp_path):
    facts = session._node_facts("10.0.0.3", (str(tmp_path / "runs" / "plan.json"),))
    with pytest.raises(ClusterError, match=r"10\.0\.0\.3 cannot reach .*plan\.json.*s3://"):
        compare_nodes(versions(), [facts])


def test_every_node_of_this_ray_reaches_what_exists_and_not_what_does_not(local_ray, tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    session.check_nodes([str(tmp_path / "plan.json")])
    with pytest.raises(ClusterError, match="cannot reach"):
        session.check_nodes([str(tmp_path / "missing.json")])


def test_what_an_autoscaler_may_add_counts(local_ray, monkeypatch):
    assert (session.num_cpus(), session.num_gpus()) == (2, 0)
    monkeypatch.setenv("VIBRAY_MAX_CPUS", "160")
    monkeypatch.setenv("VIBRAY_MAX_GPUS", "4")
    assert (session.num_cpus(), session.num_gpus()) == (160, 4)
    monkeypatch.setenv("VIBRAY_MAX_CPUS", "1")  # less than is there
    monkeypatch.setenv("VIBRAY_MAX_GPUS", "four")
    assert session.num_cpus() == 2
    with pytest.raises(ClusterError, match="VIBRAY_MAX_GPUS=four: write a number"):
        session.num_gpus()


def test_versions_are_what_is_installed():
    import ray
    import torch

    assert versions()["ray"] == ray.__version__
    assert torch.__version__.startswith(versions()["torch"])
