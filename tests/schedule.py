"""How files of tests are dealt out to the processes of pytest-xdist: Ray runs in one of them as long as the others have work without it."""

from functools import cache
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

ROOT = Path(__file__).parents[1]

SHARING = {f"tests/pipeline/{name}.py" for name in ("test_classical_line", "test_deep_line", "test_nightly", "test_without_ray")}
"""Files that start from the same lines (tests/pipeline/conftest.py), which are made once a process: they stay together."""
TOGETHER = "files that share lines"


class ByFile(LoadScopeScheduling):
    """Whole files, so that what a file makes once is made once. The first process takes those that need a Ray, the others the rest; who has
    no such file left takes from the other end of the others', and starts a Ray of its own where it must.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return TOGETHER if file in SHARING else file

    def _assign_work_unit(self, node: WorkerController) -> None:
        with_ray = node.gateway.id == "gw0"
        own = [file for file in self.workqueue if needs_ray(file) is with_ray]
        if TOGETHER in own:  # the longest
            file = TOGETHER
        else:
            file = own[0] if own else next(reversed(self.workqueue))
        self.workqueue.move_to_end(file, last=False)  # the one that the base class takes
        super()._assign_work_unit(node)


@cache
def needs_ray(file: str) -> bool:
    """Read from its text: the process that deals out files collects no tests."""
    return file == TOGETHER or ((ROOT / file).is_file() and "local_ray" in (ROOT / file).read_text())
