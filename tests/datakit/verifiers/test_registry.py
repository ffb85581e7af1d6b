"""The registry of verifiers: a file, a re-export and a test for each."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from datakit.label import Verify
from datakit.verifiers.registry import VERIFIERS, verifier_of
from schemas.errors import ConfigError
from schemas.settings import parse
from tests.sources import ROOT

IN_VERIFY = {"number", "choice", "text"}
"""Tested by tests/datakit/label/test_verify.py."""


def test_every_verifier_is_a_file_that_is_tested():
    room = {path.stem for path in (ROOT / "datakit" / "verifiers").glob("*.py")}
    assert {*VERIFIERS} == room - {"__init__", "verifier", "registry"}
    tested = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert {*VERIFIERS} - IN_VERIFY <= tested


@pytest.mark.parametrize("kind", VERIFIERS)
def test_settings_have_defaults_and_are_plain_json(kind):
    verifier = verifier_of(kind, {}, "here")
    assert parse(VERIFIERS[kind], json.loads(json.dumps(dataclasses.asdict(verifier)))) == verifier
    assert {"response", *([] if not verifier.gold else ["answer"])} == {*Verify(kind=kind).takes.names}


def test_a_setting_that_a_kind_has_not_is_refused():
    with pytest.raises(ConfigError, match="unknown key pattern"):
        verifier_of("number", {"pattern": "a"}, "here")


def test_further_settings_leave_the_keys_of_older_verdicts_alone():
    assert "settings" not in Verify(kind="number").params()
    assert Verify(kind="regex", settings={"pattern": "a"}).params()["settings"] == {"pattern": "a"}
