"""What the README tells a newcomer to type is what the jobs take."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
import tyro

ROOT = Path(__file__).parents[1]


def commands() -> list[str]:
    """Every line of the README's shell blocks, and of the jobs' own help, that runs a job."""
    texts = [(ROOT / "README.md").read_text(), *(path.read_text() for path in sorted((ROOT / "jobs").glob("*.py")))]
    found = [re.sub(r"\\\\?\n\s*", " ", text) for text in texts]
    lines = [line.strip() for text in found for line in text.splitlines()]
    starts = [
        line[line.index("python jobs/") :] for line in lines if "python jobs/" in line and not line.startswith(("`", "The", "|", "With"))
    ]
    return [re.sub(r"\s{3,}.*", "", command) for command in starts]


def job(name: str):
    """The module of a job, not run."""
    spec = importlib.util.spec_from_file_location(f"job_{name}", ROOT / "jobs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("command", commands())
def test_a_command_is_one_that_its_job_takes(command):
    words = shlex.split(command.replace("$VIBRAY_GFD", "/gfd").replace("`", ""))
    name = Path(words[1]).stem
    module = job(name)
    arguments = getattr(module, name.capitalize())
    parsed = tyro.cli(arguments, args=words[2:])
    assert isinstance(parsed, arguments)


def test_the_readme_shows_the_whole_line():
    text = "\n".join(commands())
    for name in ("demo", "synthesize", "featurize", "train", "search", "calibrate", "score", "label", "evaluate", "benchmark", "report"):
        assert f"jobs/{name}.py" in text, name


def test_every_folder_has_its_line():
    text = (ROOT / "README.md").read_text()
    for folder in sorted(path.name for path in (ROOT / "vibray").iterdir() if path.is_dir() and not path.name.startswith("_")):
        assert f"`vibray/{folder}/`" in text, folder


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.py")), ids=lambda path: path.stem)
def test_help_teaches(path, capsys):
    module = job(path.stem)
    with pytest.raises(SystemExit) as code:
        tyro.cli(getattr(module, path.stem.capitalize()), args=["--help"], description=module.__doc__)
    assert code.value.code == 0
    out = capsys.readouterr().out
    assert f"python jobs/{path.stem}.py" in out.replace("\n", " ")
