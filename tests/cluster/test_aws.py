"""The `ray up` file against the schema that Ray ships, and against its own checks. No Ray is started, nothing is asked of AWS."""

import copy
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster" / "aws.yaml").read_text())


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    ray = find_spec("ray")
    assert ray is not None
    assert ray.origin is not None
    return json.loads((Path(ray.origin).parent / "autoscaler" / "ray-schema.json").read_text())


def test_file_fits_rays_schema(config: dict[str, Any], schema: dict[str, Any]) -> None:
    jsonschema.validate(config, schema)


@pytest.mark.parametrize("path", [(), ("docker",), ("available_node_types", "cpu")])
def test_a_typo_is_caught(path: tuple[str, ...], config: dict[str, Any], schema: dict[str, Any]) -> None:
    place = config
    for key in path:
        place = place[key]
    place["max_worker"] = 3
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        jsonschema.validate(config, schema)


def test_ray_itself_accepts_it_and_finds_an_unknown_node_type(config: dict[str, Any]) -> None:
    util = pytest.importorskip("ray.autoscaler._private.util", reason="private, and not in this Ray")
    util.validate_config(util.prepare_config(copy.deepcopy(config)))
    config["head_node_type"] = "heads"
    with pytest.raises(ValueError, match="head_node_type"):
        util.validate_config(util.prepare_config(config))


def test_nodes_are_what_they_say(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["gpu"]["resources"]["GPU"] > 0
    assert types["gpu"]["docker"]["worker_image"].endswith("-gpu")
    assert sum(t.get("max_workers", 0) for t in types.values()) <= config["max_workers"]
    assert all(t["node_config"]["MetadataOptions"]["HttpTokens"] == "required" for t in types.values())
    starts = [line for which in ("head", "worker") for line in config[f"{which}_start_ray_commands"] if "ray start" in line]
    assert len(starts) == 2
    assert all(line.startswith("RAY_AUTH_MODE=token ") for line in starts)
    assert list(config["file_mounts"]) == ["/home/ray/.ray/auth_token"]
