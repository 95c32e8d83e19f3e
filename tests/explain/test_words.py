"""The rules on numbers put in, the sentences in both languages, and both on generated faults."""

from collections.abc import Sequence
from typing import Any

import pytest

from vibray.explain.words import TEXT, Moved, Sign, sentences, signs, text, title


def lines(hz: Sequence[float], z: float, decibels: float = 10.0) -> list[Moved]:
    return [Moved(float(f), decibels, z) for f in hz]


USUAL = lines(range(100, 2001, 100), 0.5)


def names(**moved: list[Moved]) -> list[str]:
    groups: dict[Any, list[Moved]] = {"even": USUAL, **moved}
    return [sign.name for sign in signs(groups)]


def test_each_rule_is_met_by_what_it_says() -> None:
    assert names(odd=lines((50, 150, 250), 3.1)) == ["dc_bias"]
    assert names(even=lines((300, 500, 900), 3.1)) == ["looseness"]
    assert names(even=lines((100, 200, 1100), 3.1)) == ["moved"]  # below and above where a loose core shows
    assert names(swelling=lines((100, 300, 500), 4.1)) == ["swelling"]
    assert names(bursts=lines((1500, 1600), 4.1)) == ["impacts"]
    assert names(bursts=lines((300, 600), 4.1)) == ["moved"]
    assert names(bands=lines((2000, 2064, 2128), 4.1)) == ["noise"]
    assert names(odd=lines((50, 150, 250), 3.1), bursts=lines((1500, 1600), 4.1)) == ["dc_bias", "impacts"]


def test_what_follows_from_another_sign_is_not_told_twice() -> None:
    bursts, bands = lines((1500, 1600), 4.1), lines((1400, 1500, 1600), 4.1)
    assert names(bursts=bursts, bands=bands) == ["impacts"]
    assert names(even=lines((300, 500, 900), 3.1), bands=bands) == ["looseness"]
    assert names(bursts=bursts, bands=bands, swelling=lines((100, 300, 500), 4.1)) == ["swelling"]


def test_too_few_or_fallen_lines_meet_none() -> None:
    assert names(odd=lines((50, 150), 9.0)) == ["moved"]
    assert names(odd=lines((50, 150, 250), -9.0, -10.0)) == ["moved"]
    assert names(odd=lines((50, 150, 250), 2.4)) == ["usual"]


def test_a_machine_without_mains_has_impacts_at_any_frequency() -> None:
    moved = lines((300, 600, 650), 4.1)
    assert [sign.name for sign in signs({"bursts": moved, "swelling": moved})] == ["impacts"]
    assert signs({}) == (Sign("usual", ()),)


def test_the_sentence_names_the_furthest_by_frequency() -> None:
    odd = [Moved(250.0, 17.2, 5.0), Moved(150.0, 21.4, 9.0), Moved(50.0, 3.0, 3.0), Moved(350.0, 4.0, 4.0), Moved(450.0, 4.0, 3.5)]
    (line,) = sentences(signs({"odd": odd}), "en")
    assert line.startswith("150 Hz +21 dB (z 9.0), 250 Hz +17 dB (z 5.0), 350 Hz +4 dB (z 4.0), 450 Hz +4 dB (z 3.5) and 1 more: odd")
    (line,) = sentences(signs({"odd": odd}), "zh")
    assert "直流偏磁" in line and "150 Hz +21 dB" in line and "等共 5 处" in line


@pytest.mark.parametrize("message", TEXT)
def test_every_message_is_there_in_both_languages_with_the_same_numbers(message: str) -> None:
    values = {"moved": "<moved>", "name": "<name>", "count": "<count>", "total": "<total>"}
    for language in ("en", "zh"):
        assert "{" not in text(message, language, **values)
    assert any("一" <= c <= "鿿" for c in TEXT[message]["zh"])
    assert ("{moved}" in TEXT[message]["en"]) == ("{moved}" in TEXT[message]["zh"])


def test_a_heading_names_its_member_where_there_are_several() -> None:
    assert title("shares", "en", "") == TEXT["shares"]["en"] and title("shares", "en", "svdd").endswith(": svdd")
