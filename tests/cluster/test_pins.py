"""One set of versions everywhere: pyproject.toml, the image, the KubeRay files. And no secret in any of them."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PINNED = ("ray", "torch", "torchvision")
DOCKERFILE = (ROOT / "cluster" / "Dockerfile").read_text()


def pins(text: str) -> dict[str, str]:
    found = re.findall(r"\b(ray|torch|torchvision)(?:\[[\w,]*\])?==([\w.]+)", text)
    assert len(found) == len({name for name, _ in found}), "pinned twice"
    return dict(found)


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_image_has_pyprojects_versions(project: dict) -> None:
    wanted = pins("\n".join(project["dependencies"]))
    assert set(wanted) == set(PINNED)
    assert pins(DOCKERFILE) == wanted


def test_rays_extras_are_the_same(project: dict) -> None:
    extras = re.compile(r"\bray(\[[\w,]*\])==")
    assert extras.findall(DOCKERFILE) == extras.findall("\n".join(project["dependencies"]))


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml", "raycronjob.yaml"])
def test_ray_version_is_the_pin(name: str, project: dict) -> None:
    spec = yaml.safe_load((ROOT / "cluster" / name).read_text())["spec"]
    spec = spec.get("jobTemplate", spec)
    assert spec.get("rayClusterSpec", spec)["rayVersion"] == pins("\n".join(project["dependencies"]))["ray"]


def test_python_is_one_the_project_allows(project: dict) -> None:
    (minor,) = re.findall(r"^FROM python:3\.(\d+)-", DOCKERFILE, re.MULTILINE)
    low, high = re.findall(r"3\.(\d+)", project["requires-python"])
    assert int(low) <= int(minor) < int(high)


def test_what_the_image_copies_exists() -> None:
    sources = [source for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE) for source in line.split()[:-1]]
    assert "vibray" in sources
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_the_image_names_no_package_index() -> None:
    assert "://" not in DOCKERFILE
    assert re.findall(r"^ARG (.*)$", DOCKERFILE, re.MULTILINE) == ["TORCH_INDEX"]  # without a default


def test_the_image_does_not_run_as_root() -> None:
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)[-1:] == ["ray"]


SECRETS = re.compile(r"AKIA[0-9A-Z]{16}|(?i:(secret_access_key|session_token|auth_token|password)\s*[:=]\s*[\"']?[A-Za-z0-9/+]{16,})")


def test_the_pattern_finds_a_secret() -> None:
    assert SECRETS.search("AWS_SECRET_ACCESS_KEY: " + "wJalrXUtnFEMIK7MDENG" + "bPxRfiCYEXAMPLEKEY")
    assert SECRETS.search("AKIA" + "IOSFODNN7EXAMPLE")


@pytest.mark.parametrize("path", sorted((ROOT / "cluster").iterdir()), ids=lambda path: path.name)
def test_no_file_holds_a_secret(path: Path) -> None:
    assert not SECRETS.search(path.read_text())


def test_runtime_env_carries_names_we_know_and_leaves_data_behind() -> None:
    environment = yaml.safe_load((ROOT / "cluster" / "runtime_env.yaml").read_text())
    assert set(environment) == {"excludes", "env_vars"}
    assert environment["env_vars"] == {"RAY_AUTH_MODE": "token", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    assert {".git", "*.parquet", "*.jsonl.gz"} <= set(environment["excludes"])
