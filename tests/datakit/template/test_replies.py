"""S10: what the process of a template answers is outside data: too long, malformed or of another type has a name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datakit.templating import sandbox
from datakit.templating.sandbox import Conversation, Rendered, Sandbox
from schemas.errors import DataError

WORKER = """
import os, sys
sys.stdin.buffer.readline()
os.write(1, HEAD)
sys.stdin.buffer.readline()
data = REPLY
while data:
    data = data[os.write(1, data):]
"""
TWO = [Conversation.of(("user",), ("hi",)), Conversation.of(("user",), ("ho",))]
GOOD: list[dict[str, Any]] = [{"text": "hi", "runs": [[0, 2, 0]], "looked": False}, {"text": "ho"}]


def answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reply: bytes, head: bytes = b"{}\n") -> list[Rendered]:
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER.replace("HEAD", repr(head)).replace("REPLY", repr(reply)))
    with monkeypatch.context() as context:
        context.setattr(sandbox, "_WORKER", worker)
        asked = Sandbox("x")
        try:
            return asked.render(TWO)
        finally:
            asked.close()


def test_what_is_agreed_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = answered(tmp_path, monkeypatch, json.dumps(GOOD).encode() + b"\n")
    assert (one.text, list(one.runs), two.text) == ("hi", [[0, 2, 0]], "ho")


def changed(**fields: Any) -> bytes:
    return json.dumps([GOOD[0], {**GOOD[1], **fields}]).encode() + b"\n"


BAD = {
    "no JSON": b"\xff\n",
    "no line": json.dumps(GOOD).encode(),
    "nothing": b"",
    "deep": b"[" * 100_000 + b"\n",
    "an object": b"{}\n",
    "one answer too few": json.dumps(GOOD[:1]).encode() + b"\n",
    "one answer too many": json.dumps([*GOOD, {}]).encode() + b"\n",
    "no object inside": json.dumps([GOOD[0], "ho"]).encode() + b"\n",
    "another field": changed(extra=1),
    "a number as text": changed(text=3),
    "a number as looked": changed(looked=1),
    "a list as fault": changed(fault=["x"]),
    "runs that are none": changed(runs=[[0, 1]]),
    "runs of text": changed(runs=[["0", "1", "2"]]),
    "runs outside": changed(runs=[[0, 3, 0]]),
    "runs backwards": changed(runs=[[2, 1, 0]]),
    "not a number": b'[{"text": "a", "runs": [[0, NaN, 0]]}, {}]\n',
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_has_a_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError) as fault:
        answered(tmp_path, monkeypatch, BAD[name])
    assert fault.value.slug == "template-limit" and fault.value.found.startswith("the renderer ")


@pytest.mark.parametrize("head", [b"[]\n", b'{"fault": 3}\n', b'{"fault": "x", "detail": "y"}\n', b"\xff\n", b'"x"\n'])
def test_a_first_word_that_is_not_as_agreed_has_a_name(
    head: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="template-limit"):
        answered(tmp_path, monkeypatch, json.dumps(GOOD).encode() + b"\n", head)


def test_a_reply_without_an_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MEMORY", 1 << 16)
    with pytest.raises(DataError, match="template-limit"):
        answered(tmp_path, monkeypatch, b"x" * (1 << 20))


def test_a_renderer_that_says_nothing_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_WALL", 0.5)
    worker = tmp_path / "worker.py"
    worker.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(sandbox, "_WORKER", worker)
    with pytest.raises(DataError, match="ended with -9"):
        Sandbox("x").render(TWO)


def test_half_a_character_is_a_fault_of_the_row(tmp_path: Path) -> None:
    asked = Sandbox("{{ '\\ud800' if messages[0].content == 'hi' else 'é' }}")
    try:
        one, two = asked.render(TWO)
    finally:
        asked.close()
    assert one.fault == "template-failed" and "surrogate" in one.detail and two.text == "é"
