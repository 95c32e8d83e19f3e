"""The page's own sentences in the language asked for. What the data says (names, findings, notes of earlier stages) stays as it is."""

import json
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from markupsafe import Markup, escape

Language = Literal["en", "zh"]


FILES = ("zh.json", "zh_data.json")
"""The Chinese of each sentence of the page; of names and titles that come with the data. Names in braces are values."""


@cache
def catalogue() -> dict[str, str]:
    """Chinese by English."""
    read = [json.loads(files("vibray.report").joinpath(name).read_text(encoding="utf-8")) for name in FILES]
    return read[0] | read[1]


class Words:
    """`t("{n} of {m} machines", n=3, m=41)`: the sentence in the page's language, its values escaped unless they are markup."""

    def __init__(self, language: Language = "en"):
        self.language = language
        self._known = catalogue() if language == "zh" else {}

    def __call__(self, text: str, **values: Any) -> Markup:
        """A text that the catalogue lacks (of the data) is left as it is."""
        found = escape(self._known.get(text, text))
        return found.format(**values) if values else found

    def count(self, num: int, one: str, many: str, **values: Any) -> Markup:
        """`one` where the number is 1, else `many`; {n} is the number."""
        return self(one if num == 1 else many, n=f"{num:,}", **values)

    def plain(self, text: str, **values: Any) -> str:
        """The sentence as text that is escaped later."""
        found = self._known.get(text, text)
        return found.format(**values) if values else found

    def day(self, month: int, day: int) -> str:
        """A day of a chart's axis."""
        return f"{month}月{day}日" if self.language == "zh" else f"{MONTHS[month - 1]} {day}"

    def month(self, year: int, month: int) -> str:
        return f"{year}年{month}月" if self.language == "zh" else f"{MONTHS[month - 1]} {year}"


MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
ENGLISH = Words()
