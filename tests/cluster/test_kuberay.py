"""The KubeRay files against a strict schema of our own, and against the whole CRD where one is at hand."""

import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tyro
import yaml

from vibray.pipeline import logs
from vibray.pipeline.jobs import NightlyJob, ScoreJob

DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"

ROOT = Path(__file__).parents[2]
FILES = ("raycluster.yaml", "rayjob.yaml", "raycronjob.yaml")
SCHEMA = json.loads((Path(__file__).parent / "kuberay.schema.json").read_text())


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster" / name).read_text())


def job_spec(document: dict[str, Any]) -> dict[str, Any]:
    return document["spec"]["jobTemplate"] if document["kind"] == "RayCronJob" else document["spec"]


def cluster_spec(document: dict[str, Any]) -> dict[str, Any]:
    return document["spec"] if document["kind"] == "RayCluster" else job_spec(document)["rayClusterSpec"]


def objects(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all mappings that are not empty."""
    if isinstance(value, dict) and value:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from objects(inner, (*path, key))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", FILES)
def test_file_fits(name: str) -> None:
    jsonschema.validate(load(name), SCHEMA)


@pytest.mark.parametrize("name", FILES)
def test_a_typo_is_caught_wherever_it_is(name: str) -> None:
    """Each mapping of the file in turn gets its first key misspelt (start parameters are the one place where any key may stand)."""
    good = load(name)
    for path in objects(good):
        if path and path[-1] == "rayStartParams":
            continue
        bad = copy.deepcopy(good)
        mapping = at(bad, path)
        key = next(iter(mapping))
        mapping[key + "x"] = mapping.pop(key)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, SCHEMA)


@pytest.mark.parametrize(
    ("path", "value"), [(("authOptions", "mode"), "tokens"), (("workerGroupSpecs", 0, "maxReplicas"), "20"), (("rayVersion",), 2.6)]
)
def test_a_wrong_value_is_caught(path: tuple[Any, ...], value: Any) -> None:
    bad = load("raycluster.yaml")
    at(bad["spec"], path[:-1])[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bad, SCHEMA)


def test_the_jobs_run_on_the_same_cluster() -> None:
    assert cluster_spec(load("rayjob.yaml")) == cluster_spec(load("raycluster.yaml"))
    job, nightly = (job_spec(load(name)) for name in ("rayjob.yaml", "raycronjob.yaml"))
    assert {key for key in job | nightly if job.get(key) != nightly.get(key)} == {"entrypoint", "activeDeadlineSeconds"}


def test_a_night_ends_before_the_next_begins() -> None:
    """KubeRay starts the next job whatever the former does; and a night bears the date in UTC, which must not change about then."""
    spec = load("raycronjob.yaml")["spec"]
    minute, hour, *every = spec["schedule"].split()
    assert every == ["*", "*", "*"]
    assert 1 <= int(hour) <= 22 and 0 <= int(minute) < 60
    assert spec["jobTemplate"]["activeDeadlineSeconds"] < 86400
    assert "timeZone" not in spec  # a field of 1.7, which 1.6 refuses


def test_groups_are_what_they_say() -> None:
    spec = cluster_spec(load("raycluster.yaml"))
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    for name, group in groups.items():
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        gpu = name == "gpu"
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) is gpu
        assert group["minReplicas"] == 0
        pod = group["template"]["spec"]
        tolerated = {t["key"] for t in pod["tolerations"]}
        assert tolerated - {"nvidia.com/gpu"} == {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"}
        assert ("nvidia.com/gpu" in tolerated) is gpu
        # a node drains before Kubernetes ends it
        assert 30 <= int({e["name"]: e["value"] for e in container["env"]}[DRAIN]) < pod["terminationGracePeriodSeconds"]
        assert container["image"].endswith("-gpu" if gpu else "-cpu")
    assert set(groups) == {"cpu", "gpu"}


def test_ray_drains_a_node_on_sigterm_for_as_long_as_the_variable_says() -> None:
    """The name of the variable, and that `ray start` reads it, are Ray's."""
    constants = pytest.importorskip("ray._private.ray_constants")
    assert hasattr(constants, DRAIN)


@pytest.mark.parametrize(("name", "verb", "asked"), [("rayjob.yaml", "score", ScoreJob), ("raycronjob.yaml", "nightly", NightlyJob)])
def test_the_job_is_one_of_ours_and_says_what_the_cluster_may_grow_to(name, verb, asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its flags are those of the job in jobs/, by that job's own parser."""
    spec = job_spec(load(name))
    python, script, *flags = spec["entrypoint"].split()
    assert (python, script) == ("python", f"jobs/{verb}.py")
    args = tyro.cli(asked, args=flags)
    assert args.run.startswith("s3://")
    assert args.sample_rate_hz == 8192
    assert not args.dry_run
    runtime_env = yaml.safe_load(spec["runtimeEnvYAML"])
    assert set(runtime_env) == {"env_vars"}
    said = runtime_env["env_vars"]
    assert all(isinstance(value, str) for value in said.values())
    groups = {group["groupName"]: group for group in spec["rayClusterSpec"]["workerGroupSpecs"]}
    for name, resource, variable in (("cpu", "cpu", "VIBRAY_MAX_CPUS"), ("gpu", "nvidia.com/gpu", "VIBRAY_MAX_GPUS")):
        limits = groups[name]["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert int(said[variable]) == groups[name]["maxReplicas"] * int(limits[resource])
    monkeypatch.setenv(logs.SWITCH, said[logs.SWITCH])
    assert logs.as_json()


CRD = os.environ.get("VIBRAY_KUBERAY_CRD", "")


def strict(schema: Any) -> Any:
    """The CRD's schema refusing unknown fields, with the integers that Kubernetes also takes as text."""
    if isinstance(schema, list):
        return [strict(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if made.pop("x-kubernetes-int-or-string", False) is True:
        made.pop("type", None)
    is_open = "additionalProperties" in made or made.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(made.get("properties"), dict) and not is_open:
        made["additionalProperties"] = False
    return made


@pytest.mark.skipif(not CRD, reason="VIBRAY_KUBERAY_CRD names no file (KubeRay's ray-operator/config/crd/bases/ray.io_raycronjobs.yaml)")
@pytest.mark.parametrize("name", FILES)
def test_file_fits_the_whole_crd(name: str) -> None:
    """RayCronJob's, whose jobTemplate is a RayJob's spec, in which lies a RayCluster's."""
    document = yaml.load(Path(CRD).read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = [v for v in document["spec"]["versions"] if v["name"] == "v1"]
    cron = strict(version["schema"]["openAPIV3Schema"])["properties"]["spec"]
    job = cron["properties"]["jobTemplate"]
    schema = {"RayCronJob": cron, "RayJob": job, "RayCluster": job["properties"]["rayClusterSpec"]}[load(name)["kind"]]
    jsonschema.validate(load(name)["spec"], schema)
    typo = load(name)
    cluster_spec(typo)["workerGroupSpecs"][0]["maxReplica"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        jsonschema.validate(typo["spec"], schema)
