"""Checkpoints of a training, in the run's folder: tensors as safetensors, the rest as JSON. Only the newest is kept."""

import logging
import re
from dataclasses import dataclass
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from vibray.storage import objects
from vibray.storage.errors import HalfWritten
from vibray.train.fit import Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What was saved after `epoch` epochs of a stage."""

    stage: str
    epoch: int
    tensors: dict[str, Tensor]
    values: dict[str, Any]

    def group(self, name: str) -> dict[str, Tensor]:
        """The tensors saved under `<name>/`, without it."""
        return {key[len(name) + 1 :]: value for key, value in self.tensors.items() if key.startswith(name + "/")}

    def restore(self, net: nn.Module) -> Progress:
        """Puts the net's weights and buffers back and returns the progress that was saved with them."""
        net.load_state_dict(self.group("net"))
        return Progress(**self.values["progress"], moments=self.group("optimiser"))


class Checkpoints:
    """The checkpoints of a run: `<run>/checkpoints/<stage>-<epoch>.safetensors` and a `.json` beside it, written last.

    `lines` are the figures of every epoch so far, also of those before a resumption: they are saved with each checkpoint.
    """

    def __init__(self, run_uri: str):
        self.folder = objects.join(run_uri, "checkpoints")
        self.lines: list[dict[str, Any]] = []

    def note(self, stage: str, epoch: int, figures: dict[str, float]) -> None:
        """Adds an epoch to `lines`; it is safe from the next `save` on."""
        self.lines.append({"stage": stage, "epoch": epoch, **figures})

    def save(self, stage: str, net: nn.Module, progress: Progress, more: dict[str, Tensor] | None = None, **values: Any) -> None:
        """Saves a net and its progress, then removes every older checkpoint, whatever its stage. One worker calls it, after each epoch.

        `more` are further tensors (`<group>/<name>`), `values` further JSON values.
        """
        tensors = {f"net/{name}": value for name, value in net.state_dict().items()}
        tensors |= {f"optimiser/{name}": value for name, value in progress.tensors(net).items()} | (more or {})
        data = safetensors.torch.save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
        name = f"{stage}-{progress.epoch}"
        objects.write_bytes(objects.join(self.folder, name + ".safetensors"), data)
        marker = {"sha256": objects.sha256(data), "values": {"progress": progress.values(), "lines": self.lines, **values}}
        objects.write_json(objects.join(self.folder, name + ".json"), marker)
        self._remove(keep=name)

    def latest(self, stage: str) -> Checkpoint | None:
        """The newest whole checkpoint of a stage, whose `lines` become these; None where there is none.

        One that does not match its sha256, or whose marker a killed worker left half written, is passed over.
        """
        found = (re.fullmatch(rf"{re.escape(stage)}-(\d+)\.json", key) for key in self._keys())
        for epoch in sorted((int(match[1]) for match in found if match), reverse=True):
            uri = objects.join(self.folder, f"{stage}-{epoch}")
            try:
                marker = objects.read_json(uri + ".json")
            except HalfWritten as error:
                log.warning("training goes on from an earlier checkpoint: %s", error)
                continue
            data = objects.read_bytes(uri + ".safetensors")
            if objects.sha256(data) == marker["sha256"]:
                self.lines = list(marker["values"]["lines"])
                return Checkpoint(stage, epoch, safetensors.torch.load(data), marker["values"])
            log.warning("%s.safetensors is damaged (its sha256 is another one): training goes on from an earlier checkpoint", uri)
        return None

    def clear(self) -> None:
        """Removes all checkpoints, once the run is finished."""
        self._remove(keep=None)

    def _remove(self, keep: str | None) -> None:
        keys = [key for key in self._keys() if keep is None or key.rpartition(".")[0] != keep]
        # markers go first, so that none is ever left without its tensors
        objects.remove(objects.join(self.folder, key) for key in sorted(keys, key=lambda key: not key.endswith(".json")))

    def _keys(self) -> list[str]:
        try:
            return [info.key for info in objects.list_objects(self.folder, hidden=True)]
        except FileNotFoundError:
            return []
