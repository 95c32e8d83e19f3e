"""What every room needs: configs (frozen dataclasses) to JSON and back, a short hash that names them, the error that is the user's to mend,
and the versions that a run is made with."""

import hashlib
import importlib.metadata
import json
import platform
import unicodedata
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError


class UserError(ValueError):
    """What the person who runs a job can mend; the message is what they read, and says what to do.

    Every such error of the package is an instance of this class. Any other exception, ValueError included, is a defect of vibray.
    """


def first_line(error: BaseException) -> str:
    """What an error says in its first line; the name of its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def same_name(text: str) -> str:
    """What two spellings of one name have in common: without case, blanks, invisible characters and the Unicode form they are written in.

    NFKC_Casefold of the Unicode standard (chapter 3.13), and blanks of every width and place left out. For comparing, not for showing.
    """
    name = text
    for _ in range(2):  # again, because marks that a blank parted combine where it is gone
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", name).casefold())
        name = "".join(c for c in folded if not (c.isspace() or unicodedata.category(c) == "Cf"))
    return unicodedata.normalize("NFKC", name)


STRICT = ConfigDict(extra="forbid")
"""Every config carries `@with_config(STRICT)`: a plain dataclass would let unknown fields pass silently."""


def to_json(config: object, config_type: Any = None) -> dict[str, Any]:
    """The config as JSON-ready values; `config_type` names the union it belongs to, by default its own class."""
    return TypeAdapter(config_type or type(config)).dump_python(config, mode="json")


def from_json(config_type: Any, values: dict[str, Any], where: str = "config") -> Any:
    """The config, a dataclass or a union of them, read back from JSON values; `where` names the file in the error.

    Raises UserError with one line a wrong or unknown field.
    """
    try:
        # strict JSON rules: a list may become a tuple, but "1" does not become 1
        return TypeAdapter(config_type).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        lines = [f"  {'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()]
        raise UserError(f"{where} does not fit {getattr(config_type, '__name__', config_type)}:\n" + "\n".join(lines)) from None


def short_hash(values: Any) -> str:
    """12 hexadecimal digits that name JSON-ready values (or a config): the same values give the same name on any machine."""
    if hasattr(values, "__dataclass_fields__"):
        values = to_json(values)
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.blake2b(canonical.encode(), digest_size=6).hexdigest()


SAME_VERSION = ("ray", "torch", "torchvision", "numpy", "pyarrow")
"""Packages whose version must be the same in the driver and on every node."""


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that must not differ between nodes."""
    found = {"python": platform.python_version()}
    for name in SAME_VERSION:
        found[name] = importlib.metadata.version(name).split("+")[0]  # 2.13.0+cpu on a head without a GPU is 2.13.0
    return found


def environment() -> dict[str, str]:
    """Versions and platform, for a run's environment.json."""
    return {**versions(), "vibray": importlib.metadata.version("vibray"), "platform": platform.platform()}
