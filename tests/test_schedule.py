"""Who shares lines and who needs Ray is read from names and texts: they are still what they were."""

import re

import pytest

pytest.importorskip("xdist", reason="pytest-xdist is not installed (extra [test])")

from tests.schedule import ROOT, SHARING, TOGETHER, needs_ray

FIXTURES = {"line", "features", "one_and_two"}


def test_files_that_start_from_the_shared_lines_stay_together():
    """Those of tests/pipeline that take such a fixture and make none of that name themselves."""
    found = set()
    for path in (ROOT / "tests" / "pipeline").glob("test_*.py"):
        text = path.read_text()
        taken = {name.strip() for arguments in re.findall(r"^def \w+\((.*?)\)", text, re.MULTILINE) for name in arguments.split(",")}
        made = set(re.findall(r"^def (\w+)\(", text, re.MULTILINE))
        if taken & FIXTURES - made:
            found.add(path.relative_to(ROOT).as_posix())
    assert found == SHARING


def test_ray_is_needed_where_a_test_asks_for_it():
    assert needs_ray(TOGETHER)
    assert needs_ray("tests/pipeline/test_search.py")
    assert not needs_ray("tests/storage/test_records.py")
