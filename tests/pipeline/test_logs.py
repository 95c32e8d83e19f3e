"""Lines for a person, objects for a machine, and no credential in either."""

import json
import logging
import re
import warnings

import pytest

from vibray.config import UserError
from vibray.pipeline import logs

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCY-planted"


@pytest.fixture
def structured(monkeypatch):
    monkeypatch.setenv(logs.SWITCH, "json")


def objects_of(capsys) -> list[dict]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_every_line_is_an_object_with_time_level_job_event_and_facts(structured, capsys):
    with warnings.catch_warnings(), logs.told("score"):
        warnings.simplefilter("always")
        logs.log.info("plan of %d parts", 3, extra=logs.event("plan", num_parts=3))
        print("read 51 = kept 50\n  1 not_json", end="")
        print()
        logging.getLogger("another.library").warning("slow\nnetwork")
        warnings.warn("an odd value", RuntimeWarning, stacklevel=1)
    plan, account, reason, library, warning = objects_of(capsys)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", plan.pop("time"))
    assert plan == {"level": "info", "job": "score", "event": "plan", "message": "plan of 3 parts", "num_parts": 3}
    assert (account["event"], account["message"], reason["message"]) == ("message", "read 51 = kept 50", "  1 not_json")
    assert (library["event"], library["level"], library["message"]) == ("another.library", "warning", "slow\nnetwork")
    assert "an odd value" in warning["message"]


def test_after_the_job_all_is_as_before(structured, capsys):
    before = (list(logging.getLogger().handlers), logs.log.level, warnings.showwarning)
    with logs.told("score"):
        pass
    assert (list(logging.getLogger().handlers), logs.log.level, warnings.showwarning) == before
    print("plain")
    assert capsys.readouterr().out == "plain\n"


def test_a_person_gets_lines_with_their_time_and_no_details(monkeypatch, capsys):
    monkeypatch.delenv(logs.SWITCH, raising=False)
    with logs.told("score"):
        logs.log.debug("part 1", extra=logs.event("part", num_kept=3))
        logs.log.info("half is done")
        logs.log.warning("a sensor is off")
        print("account")
    captured = capsys.readouterr()
    assert captured.out == "account\n"
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ "
    assert re.fullmatch(f"{stamp}half is done\n{stamp}warning: a sensor is off\n", captured.err)


@pytest.mark.parametrize("switch", ["text", "json"])
@pytest.mark.parametrize("variable", logs.SECRETS)
def test_a_planted_secret_is_taken_out(switch, variable, monkeypatch, capsys):
    monkeypatch.setenv(logs.SWITCH, switch)
    monkeypatch.setenv(variable, SECRET)
    with logs.told("score"):
        try:
            raise OSError(f"signature of {SECRET} refused")
        except OSError as error:
            logs.log.error("failed: %s", error, extra=logs.event("failed", detail={"headers": SECRET}), exc_info=switch == "json")
    shown = capsys.readouterr().err
    assert SECRET not in shown
    assert f"<{variable}>" in shown


def test_a_value_that_means_nothing_is_refused(monkeypatch):
    monkeypatch.setenv(logs.SWITCH, "xml")
    with pytest.raises(UserError, match="VIBRAY_LOG=xml: write text or json"), logs.told("score"):
        pass
