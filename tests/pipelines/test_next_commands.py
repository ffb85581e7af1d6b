"""What an error says to do next is a command, or flags of the one that was given, wherever one is known."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path

import pytest

from datakit.tokenize import Adopt
from pipelines.cli import invocation
from pipelines.commands.models import MergeModel
from pipelines.graph.backend import model_at
from pipelines.graph.nodes import Existing
from pipelines.graph.plan import Plan
from pipelines.graph.tokenizer_check import check_tokenizer
from pipelines.recipes import Sft
from pipelines.runtime import command
from schemas import TOKENS
from schemas.errors import DataError
from schemas.manifest import Manifest
from tests.sources import FILES, TREES

pytestmark = pytest.mark.usefixtures("activated")

STEER = "SteerLm --model model --data rows.jsonl --reward judge --attributes '[\"reward\"]'"
OWN = "--setup own --own-model model --own-prompts prompts.jsonl --own-reward judge --own-max-new-tokens 8"
GIVEN = [
    ("Generate --model model --policy judge --prompts prompts.jsonl", "Generate --model model --prompts prompts.jsonl"),
    ("Generate --model '' --prompts prompts.jsonl",
     "Generate --prompts prompts.jsonl --model CHECKPOINT --samples-per-prompt 16"),
    ("Generate --model model --prompts= --samples-per-prompt 2",
     "Generate --model model --samples-per-prompt 2 --prompts prompts.jsonl"),
    ("Label --op length --data rows.jsonl --params '{\"column\": \"respons\", \"output\": \"long\"}'",
     "Label --op length --data rows.jsonl --params '{\"column\": \"response\", \"output\": \"long\"}'"),
    ("Label --op length --data rows.jsonl --model model", "Label --op length --data rows.jsonl"),
    ("Label --op length --data rows.jsonl --template text --date 2026-01-01", "Label --op length --data rows.jsonl"),
    ("Template --op chat --data rows.jsonl --tokenizer model --template text --params '{\"template\": \"plain\"}'",
     "Template --op chat --data rows.jsonl --tokenizer model --params '{\"template\": \"plain\"}'"),
    ("Import --files rows.jsonl --name ../rows", "Import --files rows.jsonl --name demo/rows"),
    (f"{STEER} --steered '[\"brief\"]'", f"{STEER} --steered '[\"reward\"]'"),
    (f"{STEER} --others '{{\"brief\": 1}}'", STEER),
    (f"{STEER} --others '{{\"reward\": 1.5}}'", STEER),
    (f"RestIteration {OWN} --threshold-kind quantile --reward-std 1 --prompts-per-iteration 1",
     f"RestIteration {OWN} --reward-std 1 --prompts-per-iteration 1 --threshold-kind absolute"),
    ("RestIteration --prompts-per-iteration -5", "RestIteration --prompts-per-iteration 1024"),
    ("RestIteration --thresholds 0.5 --prompts-per-iteration -5",
     "RestIteration --prompts-per-iteration 1024 --thresholds '[0.5]'"),
    ("RestIteration --original-share 1.5", "RestIteration --original-share 0.05"),
    ("RestIteration --prompts-per-iteration many", "RestIteration --help"),
    ("RestIteration --preview 0", "RestIteration --preview 10"),
    ("RestIteration --preview ten", "RestIteration --preview 10"),
    ("Import --files bad.jsonl", "Import --files bad.jsonl --quiver-max-rejected 0.34"),
    ("Import --files prompts.jsonl --format completions", "Import --files prompts.jsonl --format prompts"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), GIVEN)
def test_the_next_line_is_a_command(
    given: str, expected: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr("sys.argv", ["quiver"])
    monkeypatch.setattr("pipelines.cli.invocation.program", lambda name: name)
    (place / "prompts.jsonl").write_text('{"prompt": "q"}\n{"prompt": "a"}\n')
    bad = [{"prompt": "a", "response": "b"}, {"prompt": "c"}, {"prompt": "e", "response": "f"}]
    (place / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bad))
    with pytest.raises(SystemExit):
        command.run(shlex.split(given))
    printed = capsys.readouterr().err
    assert printed.rstrip().splitlines()[-1] == f"  next: quiver {expected}", printed


@pytest.mark.parametrize(
    ("program", "given", "whole", "page"),
    [
        ("quiver", "--module pipelines Label --op x --module mine", "Label --op x --module mine", "A --module mine"),
        ("quiver", "--module pipelines Label --module=mine --op x", "Label --op x --module mine", "A --module mine"),
        ("quiver", "--module pipelines Label --op x", "Label --op x", "A"),
        ("luigi", "--module mine Label --op x", "--module mine Label --op x", "--module mine A"),
        ("luigi", "--module pipelines Label --op x", "--module pipelines Label --op x", "--module pipelines A"),
    ],
)
def test_a_module_of_ones_own_stays_in_the_command(
    program: str, given: str, whole: str, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [program])
    monkeypatch.setattr("pipelines.cli.invocation.program", lambda name: name)
    monkeypatch.setattr(invocation, "_given", given.split())
    assert shlex.join(invocation.again()) == f"{program} {whole}"
    assert invocation.typed("A") == shlex.join(invocation.command("A")) == f"{program} {page}"
    assert invocation.runnable("luigi --module pipelines A") == f"{program} {page}"
    assert ("mine" in invocation.runnable("--op y")) is ("mine" in given)


def test_rows_of_another_tokenizer_name_one_that_is_there(place: Path) -> None:
    """Of rows that nobody knows how to make again: whatever speaks the tokenizer, and is not made yet."""
    manifest = Manifest(kind="dataset", schema=TOKENS, facts={"tokenizer": "0" * 64}, task_key="1" * 64)
    rows = Existing(label="foreign", root="data", place="foreign", existing_manifest=manifest)
    plan = Plan("data")
    imported = model_at(plan, "model")
    trained = Sft(model="model", data="rows.jsonl", eval_share=0.0).results(plan).checkpoints["policy"]
    [merged] = MergeModel(model="model").build(plan)
    adopted = plan.table("adopted", Adopt(path=str(place / "model")).pinned())
    for one in (imported, trained, merged, adopted):
        with pytest.raises(DataError, match="another tokenizer") as fault:
            check_tokenizer("x", one, rows, ("input_ids",))
        written = f"luigi --module pipelines Template --op chat --data ROWS --tokenizer {place / 'model'}"
        assert fault.value.next == written, one.label


def test_next_flags_are_a_command_and_nothing_else() -> None:
    """No sentence goes on behind them, and no second way: what is printed is pasted."""
    texts = [
        (path, text)
        for path in FILES
        for call in ast.walk(TREES[path])
        if isinstance(call, ast.keyword) and call.arg == "next"
        for text in texts_in(call.value)
    ]
    flags = [(path, text) for path, text in texts if text.startswith("--")]
    assert len(flags) > 30
    assert not [
        f"{path}: {text}" for path, text in flags if re.search(r", | or | where |; ", re.sub("'[^']*'", "", text))
    ]


def texts_in(value: ast.expr) -> list[str]:
    """The texts that an expression may be, `*` for what is known only when it runs."""
    if isinstance(value, ast.IfExp):
        return [*texts_in(value.body), *texts_in(value.orelse)]
    if isinstance(value, ast.JoinedStr):
        return ["".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in value.values)]
    return [value.value] if isinstance(value, ast.Constant) and isinstance(value.value, str) else []
