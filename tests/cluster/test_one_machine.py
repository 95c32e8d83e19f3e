"""The night on one machine: the script that cron and systemd run, and systemd's two units."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import tyro

from vibray.pipeline.jobs import NightlyJob

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A checkout whose python writes down what it is asked, and ends with what EXIT says."""
    (tmp_path / "cluster").mkdir()
    shutil.copy(CLUSTER / "nightly.sh", tmp_path / "cluster")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$PWD" "$OMP_NUM_THREADS" "$@" > asked\nexit "${EXIT:-0}"\n')
    python.chmod(0o755)
    return tmp_path


def night(machine: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "VIBRAY_LOCK": str(machine / "lock"), **variables}
    return subprocess.run([machine / "cluster" / "nightly.sh", *arguments], cwd="/", env=environment, capture_output=True, text=True)


@pytest.mark.skipif(shutil.which("flock") is None, reason="no flock (util-linux) here")
def test_the_script_runs_the_job_and_ends_with_its_code(machine: Path) -> None:
    assert night(machine, "--dry-run").returncode == 0
    folder, threads, script, *flags = (machine / "asked").read_text().splitlines()
    assert (folder, threads, script) == (str(machine), "1", "jobs/nightly.py")
    asked = tyro.cli(NightlyJob, args=flags)
    assert asked.dry_run and asked.reference
    for code in (1, 2, 3):
        assert night(machine, EXIT=str(code)).returncode == code


@pytest.mark.skipif(shutil.which("flock") is None, reason="no flock (util-linux) here")
def test_a_night_that_still_runs_is_left_alone(machine: Path) -> None:
    import fcntl

    with (machine / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = night(machine)
    assert (refused.returncode, refused.stderr[:29]) == (3, "error: the night before still")
    assert not (machine / "asked").exists()
    assert night(machine).returncode == 0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_the_units_are_units(tmp_path: Path) -> None:
    for name in ("vibray-night.service", "vibray-night.timer"):
        text = (CLUSTER / name).read_text().replace("/opt/vibray/cluster", str(CLUSTER)).replace("User=vibray", "User=root")
        (tmp_path / name).write_text(text)
    verified = subprocess.run(["systemd-analyze", "verify", *sorted(tmp_path.glob("vibray-night.*"))], capture_output=True, text=True)
    assert (verified.returncode, [line for line in verified.stderr.splitlines() if str(tmp_path) in line]) == (0, [])
    when = [line.partition("=")[2] for line in (CLUSTER / "vibray-night.timer").read_text().splitlines() if line.startswith("OnCalendar=")]
    assert subprocess.run(["systemd-analyze", "calendar", *when], capture_output=True, check=False).returncode == 0
