"""A flag that a command does not have: what was meant by it, in a command that parses."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from luigi.cmdline_parser import CmdlineParser

import pipelines
from pipelines.runtime import command
from pipelines.runtime.known_commands import near_task
from schemas.errors import ConfigError

MEANT = [
    ("Sft --modle ./my-model --data rows.jsonl", "Sft --model ./my-model --data rows.jsonl"),
    ("Sft --dataset rows.jsonl", "Sft --data rows.jsonl"),
    ("Sft --dataset=rows.jsonl --epochs 2", "Sft --data rows.jsonl --epochs 2"),
    ("Sft --model-name-or-path m", "Sft --model m"),
    ("Sft --lora-rank 8", "Sft --set lora.rank=8 --set lora.alpha=16"),
    ("Sft --use-lora --data x", "Sft --set lora.rank=8 --set lora.alpha=16 --data x"),
    ("Sft --lora-alpha 16 --set lora.rank=8", "Sft --set lora.alpha=16 --set lora.rank=8"),
    ("Sft --output-dir out", "Sft --quiver-root out"),
    ("Sft --name demo", "Sft --experiment demo"),
    ("Sft --bs 8", "Sft --batch-size 8"),
    ("Generate --dataset q.jsonl", "Generate --prompts q.jsonl"),
    ("DpoIteration --model ./my-model", "DpoIteration --setup own --own-model ./my-model"),
    ("SpinIteration --own-data x.jsonl", "SpinIteration --setup own --own-prompts x.jsonl"),
    ("SpinIteration --setup own --own-data x.jsonl", "SpinIteration --setup own --own-prompts x.jsonl"),
    ("RestIteration --max-length 32", "RestIteration --digits-max-length 32"),
    ("RestIteration --prompts q.jsonl", "RestIteration --setup own --own-prompts q.jsonl"),
    ("Sft --launch-rank 4", "Sft --launch-ranks 4"),
]


def refused(words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as ended:
        command.run(shlex.split(words))
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(("given", "meant"), MEANT)
def test_the_command_that_was_meant_is_given_whole_and_parses(
    given: str, meant: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = refused(given, capsys, monkeypatch)
    assert "(did you mean --" in printed
    next_ = next(line for line in printed.splitlines() if line.startswith("  next: "))
    assert next_.endswith(f" {meant}")
    with CmdlineParser.global_instance(shlex.split(meant)) as parser:
        assert parser.known_args.root_task == meant.split(maxsplit=1)[0]


@pytest.mark.parametrize("given", ["Sft --modul x", "Sft --worker 4", "Sft --ranks 8", "Sft --schedulr-host h"])
def test_no_flag_of_luigi_and_none_of_a_launch_is_suggested(
    given: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = refused(given, capsys, monkeypatch)
    for flag in ("--module", "--workers", "--launch", "--scheduler"):
        assert flag not in printed.replace("luigi --module pipelines", "")


def test_python_has_the_same_near_names() -> None:
    for name, meant in (("modle", "model"), ("dataset", "data"), ("name", "experiment")):
        with pytest.raises(ConfigError, match=rf"{name} \(did you mean {meant}\?\)"):
            pipelines.run("Sft", **{name: "x"})


@pytest.mark.parametrize("module", ["./my-model", "no_such_module"])
def test_a_module_that_cannot_be_imported_is_an_error_of_ours(
    module: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = refused(f"Sft --module {module}", capsys, monkeypatch)
    assert printed.startswith("error[2/no-module]: ") and "Traceback" not in printed


def test_the_policy_is_never_suggested_as_the_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.runtime import invocation

    monkeypatch.setattr(invocation, "_given", ["SteerLm", "--model", "./my-model", "--reward", "./my-modl"])
    error = ConfigError("not-found", "./my-modl is no model", wrong=("./my-modl",), nearest="my-model")
    assert command._next(error).endswith("SteerLm --help")
    assert error.what == "./my-modl is no model"


def test_a_task_is_found_in_any_case() -> None:
    known = ["DpoIteration", "Preference", "Sft"]
    assert near_task("sft", known) == "Sft"
