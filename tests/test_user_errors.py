"""Which errors are the user's to mend, and that the command line ends with them as one message and exit code 2."""

import importlib
import pkgutil
import runpy
import sys
from pathlib import Path

import pytest

import vibray
from vibray.config import UserError

ROOT = Path(__file__).parents[1]

OTHERS = {
    "AccountingError": "lines were lost between reading and writing: a defect of vibray",
    "BrokenStream": "raised and caught within the reading of a shard, where it becomes a bad record",
    "ClusterAway": "the cluster may come back: trying again may mend it",
    "NotWhole": "an upload's answer that storage's own retries and errors take up",
    "Stopped": "the scheduler ended a trial: no error",
    "Terminated": "SIGTERM",
    "Refused": "raised and caught within the parsing of a line",
    "_Fault": "raised and caught within the reading of a shard",
    "_NoList": "raised and caught within the reading of a shard",
}
"""Exceptions that are not the user's to mend, and why."""


def exceptions() -> dict[str, type[BaseException]]:
    """Every exception class that a module of the package defines; warnings are none."""
    found = {}
    for info in pkgutil.walk_packages(vibray.__path__, "vibray."):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            own = isinstance(value, type) and value.__module__ == info.name
            if own and issubclass(value, BaseException) and not issubclass(value, Warning):
                found[name] = value
    return found


def test_every_exception_is_the_users_to_mend_or_says_why_not():
    found = exceptions()
    assert len(found) > 25
    assert {name for name, kind in found.items() if not issubclass(kind, UserError)} == set(OTHERS)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train.py --features x --run y cwt-svdd --optim.epochs -1", "epochs >= 0"),
        ("train.py --features x --run y cwt-svdd --optim.lr inf", "lr > 0"),
        ("train.py --features x --run y fused --scaling.clip -1", "clip must be above 0, not -1"),
        ("train.py --features x --run y ensemble --members.svdd.detector.nu 2", "nu is a share"),
        ("synthesize.py --output a --labels b --num-records 0", "a fleet needs at least one record"),
        ("search.py --features x --search y cwt-vae --detector.beta -1", "beta must not be negative"),
    ],
)
def test_a_value_that_cannot_be_ends_the_command_line_with_what_is_wrong(line, said, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    job, *arguments = line.split()
    path = str(ROOT / "jobs" / job)
    monkeypatch.setattr(sys, "argv", [path, *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(path, run_name="__main__")
    told = capsys.readouterr().err
    assert end.value.code == 2
    assert [said in text for text in told.splitlines()].count(True) == 1
    assert "Traceback" not in told
    assert not list(tmp_path.iterdir())
