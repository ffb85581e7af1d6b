"""What a user's file lacks, and rows that a template refuses, are refused by every command before any stage has run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from small_model import write

from datakit.label import Verify
from datakit.op import Context
from pipelines.graph.gold_answers import check_golds
from pipelines.graph.plan import Plan
from pipelines.graph.rehearsal import rehearse
from pipelines.graph.resolve import rows_at
from pipelines.runtime import command
from schemas.errors import DataError

REFUSING = (
    "{% for message in messages %}{% if 'no' in message.content %}{{ raise_exception('not this') }}{% endif %}"
    "{{ message.content }}{% endfor %}"
)
_ANSWER = {"prompt": "q", "response": "a"}
_PAIR = {"prompt": "q", "chosen": "a", "rejected": "q"}
_ONE_SHOT = "--model m --data rows.jsonl --lr 1e-3 --eval-share 0"
_OWN = "--setup own --own-model m --own-max-new-tokens 8 --own-reward judge --own-prompts"
_ITERATED = ("Rest", "RejectionSampling", "Dpo")
COMMANDS = {
    "Evaluate --model m --prompts rows.jsonl --max-new-tokens 8": {"prompt": "q"},
    "Generate --model m --prompts rows.jsonl --max-new-tokens 8": {"prompt": "q"},
    "Label --op reward --model judge --data rows.jsonl": _ANSWER,
    f"Sft {_ONE_SHOT}": _ANSWER,
    f"Distill --teacher m {_ONE_SHOT}": _ANSWER,
    f"Preference {_ONE_SHOT}": _PAIR,
    f"RewardModel {_ONE_SHOT}": _PAIR,
    **{
        f"{name} {_OWN} rows.jsonl": {"prompt": "q"}
        for name in (*(f"{one}Iteration --prompts-per-iteration 2" for one in _ITERATED), "Grpo", "Reinforce")
    },
    f"SpinIteration {_OWN} prompts.jsonl --own-original rows.jsonl": _ANSWER,
}
"""Every command that reads a file, and a row of it."""


def _ends(given: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        command.run(shlex.split(given))
    printed = capsys.readouterr().err
    assert ended.value.code == 10, printed
    assert "nothing was started" in printed
    assert not list(Path("quiver-data").glob("**/_manifest.json"))
    return printed


def _file(name: str, rows: list[dict[str, Any]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    write(tmp_path / "m")
    write(tmp_path / "judge", "LlamaForSequenceClassification")
    for folder in ("m", "judge"):
        (tmp_path / folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": REFUSING}))
    _file("prompts.jsonl", [{"prompt": "q"}])
    return tmp_path


@pytest.mark.parametrize("given", COMMANDS)
def test_keys_that_rows_lack_are_told_before_anything_runs(
    given: str, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**COMMANDS[given], "prompt": f"q {at}"} for at in range(4)]
    _file("rows.jsonl", [*rows, {"problem": "q"}])
    assert "missing-key" in _ends(given, capsys)


@pytest.mark.parametrize("given", [one for one in COMMANDS if not one.startswith("Spin")])
def test_rows_that_the_template_refuses_are_told_before_anything_runs(
    given: str, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _file("rows.jsonl", [{**COMMANDS[given], "prompt": f"{word} q"} for word in ("yes", "so", "no", "ay", "ah")])
    printed = _ends(given, capsys)
    assert "template-failed" in printed and "not this" in printed


def test_the_command_that_follows_has_the_flag_of_the_setup(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _file("rows.jsonl", [{"problem": "q"}])
    printed = _ends(f"RestIteration {_OWN} rows.jsonl", capsys)
    assert """--own-columns '{"prompt": "problem"}'""" in printed


def test_all_that_is_known_to_be_wrong_is_told_together(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _file("rows.jsonl", [{"problem": "q"}])
    _file("others.jsonl", [{"prompt": "q", "solution": "a"}])
    given = "SpinIteration --setup own --own-model m --own-prompts rows.jsonl --own-original others.jsonl"
    printed = _ends(given, capsys)
    errors = [line for line in printed.splitlines() if line.startswith("error[")]
    assert [line.split("]")[0] for line in errors] == ["error[10/missing-key"] * 2, printed
    assert printed.count("--own-columns") == printed.count("--own-original-columns") == 1


@pytest.mark.parametrize(
    ("row", "flag"),
    [
        ({"prompt": "q", "response": "3"}, """--columns '{"answer": "response"}'"""),
        ({"prompt": "q", "note": "a 1", "gold": "7"}, """--columns '{"answer": "gold"}'"""),
        ({"prompt": "q", "note": "no number"}, "give each row of rows.jsonl the key answer"),
        ({"prompt": "q"}, "give each row of rows.jsonl the key answer"),
    ],
)
@pytest.mark.parametrize("own", [False, True])
def test_gold_answers_that_are_not_there_are_told_before_anything_is_answered(
    own: bool, row: dict[str, str], flag: str, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _file("rows.jsonl", [{**row, "prompt": f"q {at}"} for at in range(4)])
    given = (
        f"RestIteration --prompts-per-iteration 2 {_OWN} rows.jsonl --own-verifier"
        if own
        else "Evaluate --model m --prompts rows.jsonl"
    )
    printed = _ends(f"""{given}{"" if own else " --verifier"} '{{"kind": "number"}}'""", capsys)
    assert "gold-not-readable" in printed and "rows.jsonl has no answer" in printed
    assert all(key in printed for key in row)
    assert flag.replace("--", "--own-" if own else "--") in printed.partition("  next: ")[2]


def test_one_gold_answer_among_those_that_are_judged_is_told(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _file("rows.jsonl", [{"prompt": f"q {at}", "answer": "none" if at == 2 else "7"} for at in range(4)])
    printed = _ends("""Evaluate --model m --prompts rows.jsonl --verifier '{"kind": "number"}'""", capsys)
    assert "gold-not-readable 1" in printed and "has no answer" not in printed


def test_where_others_are_judged_too_only_rows_of_which_none_can_be_are_told(models: Path) -> None:
    _file("rows.jsonl", [{"prompt": "q 1", "answer": "7"}, {"prompt": "q 2"}])
    node = rows_at(Plan("quiver-data"), "rows.jsonl", "prompts")
    read: Any = node.op  # type: ignore[attr-defined]
    rows, verifier = next(read.read(Context())).rows, Verify(kind="number")
    check_golds(verifier, rows, node, none_readable=True)
    check_golds(verifier, rows.slice(0, 1), node, none_readable=False)
    for none_readable, some in ((False, rows), (True, rows.slice(1))):
        with pytest.raises(DataError, match="gold"):
            check_golds(verifier, some, node, none_readable=none_readable)


def test_a_stage_alone_says_itself_what_its_file_lacks(models: Path) -> None:
    _file("rows.jsonl", [{"problem": "q"}])
    read = rows_at(Plan("quiver-data"), "rows.jsonl", "prompts")
    rehearse([read], lambda op, flag: flag)
    with pytest.raises(DataError, match="missing-key") as raised:
        rehearse([read, read], lambda op, flag: f"{op.format} {flag}")
    assert raised.value.next.startswith("prompts --columns")
