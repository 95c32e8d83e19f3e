"""What the READMEs and the jobs' help tell a newcomer to type is what the jobs take, and what they show as Python runs."""

import importlib.util
import itertools
import re
import shlex
import subprocess
import sys
import typing
from pathlib import Path
from types import ModuleType

import pytest
import tyro
import yaml

from vibray.pipeline.jobs import help_text

ROOT = Path(__file__).parents[1]
READMES = [ROOT / name / "README.md" for name in ("", "jobs", "cluster", "vibray", "tests")]
JOBS = sorted((ROOT / "jobs").glob("*.py"))
VARIABLES = {"$VIBRAY_CORPORA": "/corpora"}
WITH_RECIPES = {"train", "prune", "search", "benchmark", "pretrain"}
"""Their help names the recipes, or what a net is taught: configs of torch modules."""


def blocks(path: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of these languages."""
    return [text for language, text in re.findall(r"^```(\w*)\n(.*?)^```", path.read_text(), re.M | re.S) if language in languages]


def commands() -> list[str]:
    """Every command of the READMEs' shell blocks, of the manifests in cluster/ and of the jobs' own help that runs a job."""
    shell = [text for path in READMES for text in blocks(path, "bash")]
    specs = [yaml.safe_load((ROOT / "cluster" / name).read_text())["spec"] for name in ("rayjob.yaml", "raycronjob.yaml")]
    files = [spec.get("jobTemplate", spec)["entrypoint"] for spec in specs]
    helps = [help_text(job(path.stem).__doc__) for path in JOBS]
    lines = [line.strip() for text in (*shell, *files, *helps) for line in re.sub(r" *\\\n\s*", " ", text).splitlines()]
    found = [line[line.index("python jobs/") :] for line in lines if re.search(r"(^|&& |-- |=\S+ |^export .*)python jobs/", line)]
    return sorted({re.sub(r"\s{3,}.*", "", command) for command in found if not command_is_open(command)})


def command_is_open(command: str) -> bool:
    """One that ends in dots stands for any."""
    return command.endswith("...") or "...`" in command


def job(name: str) -> ModuleType:
    """The module of a job, not run."""
    spec = importlib.util.spec_from_file_location(f"job_{name}", ROOT / "jobs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def asked(module: ModuleType) -> type:
    """The dataclass that a job's main takes."""
    return typing.get_type_hints(module.main)["job"]


@pytest.mark.parametrize("command", commands(), ids=lambda command: command[7:80])
def test_a_command_is_one_that_its_job_takes(command):
    for name, value in VARIABLES.items():
        command = command.replace(name, value)
    words = shlex.split(command)
    arguments = asked(job(Path(words[1]).stem))
    if words[-1] == "--help":
        with pytest.raises(SystemExit, match="0"):
            tyro.cli(arguments, args=words[2:])
        return
    assert isinstance(tyro.cli(arguments, args=words[2:]), arguments)


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.parent.name)
def test_no_command_is_left_out(path):
    """A job that is named in a shell block is one of the commands that are parsed."""
    text = "\n".join(blocks(path, "bash"))
    known = "\n".join(commands())
    for name in re.findall(r"python jobs/(\w+)\.py", text):
        assert f"jobs/{name}.py" in known, name


def test_the_pages_show_every_job():
    text = "\n".join(command for path in READMES for command in blocks(path, "bash"))
    for path in JOBS:
        assert f"jobs/{path.name}" in text, path.name


def test_the_first_page_is_one_page():
    words = (ROOT / "README.md").read_text().split()
    assert len(words) <= 1200
    assert "pip install -e '.[test]' && pytest" in " ".join(words)


def test_every_folder_and_file_that_matters_has_its_line():
    text = (ROOT / "vibray" / "README.md").read_text()
    for path in sorted((ROOT / "vibray").iterdir()):
        if path.name.startswith("_") or path.name == "README.md":
            continue
        assert f"\n| `{path.name}{'/' if path.is_dir() else ''}` |" in text, path.name


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.parent.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#\s]+)\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def anchor(heading: str) -> str:
    """The name that a page gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("path", [*READMES, ROOT / "vibray" / "DECISIONS.md"], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_links_to_headings_lead_to_headings(path):
    for target, name in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", path.read_text()):
        page = (path.parent / target) if target else path
        headings = {anchor(line.lstrip("#")) for line in page.read_text().splitlines() if line.startswith("#")}
        assert name in headings, f"{target}#{name}"


def test_an_example_of_vibray_runs():
    """How to add a feature, a detector, a threshold and a table: the examples, from top to bottom, in one namespace."""
    found = blocks(ROOT / "vibray" / "README.md", "python")
    assert len(found) >= 4
    namespace: dict[str, typing.Any] = {"__name__": "examples"}
    for text in found:
        exec(compile(text, "vibray/README.md", "exec", dont_inherit=True), namespace)


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_help_teaches(path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    module = job(path.stem)
    doc = module.__doc__
    assert doc is not None
    with pytest.raises(SystemExit) as code:
        tyro.cli(asked(module), args=["--help"], description=help_text(doc), prog=f"jobs/{path.name}")
    assert code.value.code == 0
    out = capsys.readouterr().out
    description, options = re.split(r"^(?=.* options )", out, maxsplit=1, flags=re.M)  # in a box, where the terminal can draw one
    lines = description.splitlines()[1:]  # tyro's line of usage names all recipes
    assert max(map(len, [*lines, *options.splitlines()])) <= 80
    assert "**" not in out
    assert f"python jobs/{path.stem}.py" in description
    for line in doc.splitlines():
        if line.startswith(" "):
            assert line.rstrip() in lines  # an example as it was written
    for line, following in itertools.pairwise(lines):  # a paragraph ends a line only where the next word has no room
        if line and following and not line.startswith(" ") and not following.startswith(" "):
            assert len(line) + 1 + len(following.split()[0]) > 80, line


WHAT_HELP_IMPORTS = """
import contextlib, importlib.util, io, pathlib, sys, typing
import tyro
from vibray.pipeline.jobs import help_text
for path in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location("job_" + pathlib.Path(path).stem, path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        tyro.cli(typing.get_type_hints(module.main)["job"], args=["--help"], description=help_text(module.__doc__))
print(*{name.partition(".")[0] for name in sys.modules})
"""


@pytest.mark.parametrize(
    ("with_recipes", "heavy"), [(False, {"ray", "torch", "sklearn", "matplotlib"}), (True, {"ray", "matplotlib"})], ids=["light", "recipes"]
)
def test_help_imports_little(with_recipes, heavy):
    paths = [str(path) for path in JOBS if (path.stem in WITH_RECIPES) == with_recipes]
    done = subprocess.run([sys.executable, "-c", WHAT_HELP_IMPORTS, *paths], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert "tyro" in imported
    assert not imported & heavy
