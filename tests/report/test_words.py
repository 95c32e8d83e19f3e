"""Each sentence of the page has its Chinese, with the same values in it; and the page is one or the other."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import jinja2.nodes
import pytest

import vibray.report
from tests.report import fleet
from vibray.report import rates
from vibray.report.data import ReportConfig
from vibray.report.expectations import recipes, whole
from vibray.report.page import render
from vibray.report.records import LABELS
from vibray.report.standing import Standing
from vibray.report.templating import environment
from vibray.report.words import FILES, Words, catalogue
from vibray.schema import Cause, Reason, State, Verdict

REPORT = Path(vibray.report.__file__).parent
CHINESE = re.compile(r"[\u4e00-\u9fff]")
SAME = {"kNN", "Deep SVDD", "one in N", "one in {n}", ", "}
"""Proper names, a fraction, a comma."""


def of_templates() -> Iterator[str]:
    """First argument of t(...), the two of t.count(...)."""
    made = environment()
    for path in sorted((REPORT / "templates").glob("*.j2")):
        for call in made.parse(path.read_text()).find_all(jinja2.nodes.Call):
            node = call.node
            if isinstance(node, jinja2.nodes.Name) and node.name == "t":
                yield from constants(call.args[0])
            elif isinstance(node, jinja2.nodes.Getattr) and isinstance(node.node, jinja2.nodes.Name) and node.node.name == "t":
                for argument in call.args[1:]:
                    yield from constants(argument)


def constants(node: jinja2.nodes.Node) -> Iterator[str]:
    """The texts of an argument: itself, or both branches of a condition."""
    if isinstance(node, jinja2.nodes.Const):
        yield str(node.value)
    elif isinstance(node, jinja2.nodes.CondExpr):
        yield from constants(node.expr1)
        if node.expr2 is not None:
            yield from constants(node.expr2)


def of_code() -> Iterator[str]:
    """Texts that Python hands to `t`, `t.plain`, `t.count`, written there or given a name in the same file."""
    for path in sorted(REPORT.glob("*.py")):
        tree = ast.parse(path.read_text())
        named: dict[str, list[str]] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                named.setdefault(node.targets[0].id, []).extend(texts(node.value, {}))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("t", "t.plain", "self.t.plain"):
                yield from texts(node.args[0], named)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "t.count":
                for argument in node.args[1:]:
                    yield from texts(argument, named)


def texts(node: ast.AST, named: dict[str, list[str]]) -> Iterator[str]:
    match node:
        case ast.Constant(str() as text):
            yield text
        case ast.Name(name):
            yield from named.get(name, [])
        case ast.IfExp():
            yield from texts(node.body, named)
            yield from texts(node.orelse, named)


def of_data() -> Iterator[str]:
    """Words of closed lists."""
    yield from (state.value.replace("_", " ") for state in State)
    for words in (Cause, Reason, Verdict, Standing):
        yield from (word.value for word in words)
    yield from rates.KINDS.values()
    yield from LABELS
    for row in whole()["rows"]:
        yield from (row["machines"], row["sensors"])
    yield from recipes()


SENTENCES = sorted({*of_templates(), *of_code(), *of_data()})


def test_the_sentences_are_found() -> None:
    assert len(SENTENCES) > 200
    for known in ("{n} of {m} machines need a look", "probably rarer than one in {n}", "step of {change} spreads"):
        assert known in SENTENCES


@pytest.mark.parametrize("text", SENTENCES)
def test_each_sentence_has_its_chinese_with_the_same_values(text: str) -> None:
    chinese = catalogue()[text]
    assert text in SAME or CHINESE.search(chinese)
    assert set(re.findall(r"{(\w+)}", chinese)) == set(re.findall(r"{(\w+)}", text))


def test_the_catalogue_holds_nothing_that_no_one_says() -> None:
    own, of_others = (set(json.loads((REPORT / name).read_text())) for name in FILES)
    assert own == set(SENTENCES)
    assert not own & of_others


def test_what_the_data_says_stays_as_it_is_where_nobody_knows_it() -> None:
    t = Words("zh")
    assert t("winding_looseness <b>") == "winding_looseness &lt;b&gt;"
    assert t("recipe") == "配方"
    assert t("one in {n}", n="<b>") == "1/&lt;b&gt;"
    assert t.count(1, "{n} sensor is faulty.", "{n} sensors are faulty.") == "1 个传感器故障。"


def test_the_page_is_chinese_and_its_data_as_they_are() -> None:
    html = render(fleet.report_data(300, evidence=None, explanations={}), language="zh")
    assert '<html lang="zh-Hans">' in html
    seen = re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.DOTALL)
    text = re.sub(r"<[^>]*>", " ", seen)
    assert "台设备中有" in text and "T12-tank" in text and "winding_looseness" in text
    card = render(fleet.report_data(60), ReportConfig(num_records=1), "zh").split("<article")[1].split("</article>")[0]
    assert all(f">{catalogue()[label]}<" in card and f">{label}<" not in card for label in ("time, s", "dB re maximum"))
    for sentence in SENTENCES:
        if len(sentence) > 25 and "{" not in sentence and sentence not in SAME:
            assert sentence not in text, sentence
