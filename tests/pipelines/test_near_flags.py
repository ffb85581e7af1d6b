"""A flag that a command does not have: what was meant by it, in a command that parses."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from luigi.cmdline_parser import CmdlineParser

import pipelines
from pipelines.cli.known_commands import commands, near_task
from pipelines.cli.near_flags import sections
from pipelines.runtime import command
from schemas.errors import ConfigError
from schemas.setting_faults import AND
from schemas.settings import defaults
from trainers.registry import algorithms, settings_by_name

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
    ("Grpo --kl-coefficient 0.1", "Grpo --set settings.kl_coefficient=0.1"),
    ("Ppo --beta 0.1", "Ppo --kl-coefficient 0.1"),
    ("Ppo --clip=0.1", "Ppo --set settings.clip_low=0.1 --set settings.clip_high=0.1"),
    ("Grpo --clip-low 0.1 --algorithm grpo", "Grpo --set settings.clip_low=0.1 --algorithm grpo"),
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


PAIRS = """{"prompt": "q", "chosen": "a", "rejected": "q"}
{"prompt": "a", "chosen": "q", "rejected": "a"}
"""
OF_THE_ALGORITHM = [
    ("Preference {} --set beta=0.2", "Preference {} --beta 0.2"),
    ("Preference {} --set=beta=0.2 --lr 1", "Preference {} --beta 0.2 --lr 1"),
    ("Preference {} --options '{{\"betta\": 0.2}}'", "Preference {} --options '{{\"beta\": 0.2}}'"),
    ("DpoIteration --set beta=0.2", "DpoIteration --set settings.beta=0.2"),
    ("Ppo --set clip=0.2", "Ppo --set settings.clip_low=0.2 --set settings.clip_high=0.2"),
    ("Ppo --set epsilon_high=0.3", "Ppo --set settings.clip_high=0.3"),
    ("Grpo --algorithm gspo --options '{{\"clip\": 1e-3}}'",
     "Grpo --algorithm gspo --options '{{\"clip_low\": 1e-3, \"clip_high\": 1e-3}}'"),
    ("Sft {} --set clip=1", "Sft {} --set optim.clip_grad=1"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "meant"), OF_THE_ALGORITHM)
def test_a_setting_of_the_algorithm_is_meant_before_one_of_a_like_name(
    given: str, meant: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "pairs.jsonl").write_text(PAIRS)
    data = f"--model model --data {'pairs' if given.startswith('Preference') else 'rows'}.jsonl"
    printed = refused(given.format(data), capsys, monkeypatch)
    assert "(did you mean " in printed and printed.rstrip().endswith(f" {meant.format(data)}"), printed


def test_every_name_elsewhere_is_that_of_settings_here() -> None:
    for name, algorithm in algorithms().items():
        known = {f"settings.{one}" for one in defaults(algorithm.settings)}
        names = settings_by_name(name)
        assert {path for paths in names.values() for path in paths.split(AND)} == known
    assert settings_by_name("ppo")["clip"] == "settings.clip_low and settings.clip_high"
    assert not settings_by_name("no such")


NEXT = [
    ("Grpo {own} --own-verifier number", """Grpo {own} --own-verifier '{{"kind": "number"}}'"""),
    ("""Grpo {own} --own-verifier '{{"kind": "numbr"}}'""", """Grpo {own} --own-verifier '{{"kind": "number"}}'"""),
    ("Evaluate --model model --prompts rows.jsonl --verifier text",
     """Evaluate --model model --prompts rows.jsonl --verifier '{{"kind": "text"}}'"""),
    ("Evaluate --model model --prompts rows.jsonl --verifier '{{kind: number, tolerance: 1e-6}}'",
     """Evaluate --model model --prompts rows.jsonl --verifier '{{"kind": "number", "tolerance": 1e-06}}'"""),
    ("""Filter --data in --op threshold --params "{{'column': 'reward', minimum: 1}}\"""",
     """Filter --data in --op threshold --params '{{"column": "reward", "minimum": 1}}'"""),
    ("Reinforce {own} --scale none", "Reinforce {own}"),
    ("DpoIteration --pairs best", "DpoIteration --pairs best_vs_worst"),
    ("Sft --model model --data rows.jsonl --set optim.schedule=cosin",
     "Sft --model model --data rows.jsonl --set optim.schedule=cosine"),
    ("Preference --model model --data pairs.jsonl --algorithm dop",
     "Preference --model model --data pairs.jsonl --algorithm dpo"),
    ("""RestIteration {own} --own-verifier '{{"kind": "number"}}' --samples-per-prompt 4 --thresholds '[0.5]'""",
     """Grpo {own} --own-verifier '{{"kind": "number"}}' --samples-per-prompt 4"""),
]  # fmt: skip


@pytest.mark.parametrize(("given", "meant"), NEXT)
def test_what_was_meant_by_a_value_is_put_into_the_command(
    given: str, meant: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = "--setup own --own-model model --own-prompts questions.jsonl --own-max-new-tokens 8"
    (place / "questions.jsonl").write_text('{"prompt": "q", "answer": "a"}\n{"prompt": "a", "answer": "q"}\n')
    (place / "pairs.jsonl").write_text(PAIRS)
    printed = refused(given.format(own=own), capsys, monkeypatch)
    assert printed.rstrip().endswith(f" {meant.format(own=own)}"), printed
    assert "[own]" not in printed and "FOLDER" not in printed


def test_a_flag_for_a_model_says_what_one_may_be() -> None:
    """What there is was listed before it was there: the list was empty."""
    described = [one.description or "" for kind in commands().values() for _, one in kind.get_params()]
    described += [one.description or "" for kind in sections().values() for _, one in kind.get_params()]
    assert described and not [text for text in described if text.rstrip().endswith(":")]


@pytest.mark.parametrize("given", ["Sft --modul x", "Sft --worker 4", "Sft --ranks 8", "Sft --schedulr-host h"])
def test_no_flag_of_luigi_and_none_of_a_launch_is_suggested(
    given: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = refused(given, capsys, monkeypatch)
    for flag in ("--module", "--workers", "--launch", "--scheduler"):
        assert flag not in printed.replace("luigi --module pipelines", "")


def test_python_has_the_same_near_names() -> None:
    for name, meant in (("modle", "model"), ("dataset", "data"), ("name", "experiment"), ("learning_rate", "lr")):
        with pytest.raises(ConfigError, match=rf"{name} \(did you mean {meant}\?\)"):
            pipelines.run("Sft", **{name: "x"})


@pytest.mark.parametrize("module", ["./my-model", "no_such_module"])
def test_a_module_that_cannot_be_imported_is_an_error_of_ours(
    module: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = refused(f"Sft --module {module}", capsys, monkeypatch)
    assert printed.startswith("error[2/no-module]: ") and "Traceback" not in printed


def test_a_module_of_the_working_folder_is_imported_where_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["quiver"])
    Path("lies_here.py").write_text("raise AssertionError('it runs unasked')")
    printed = refused("Sft --module lies_here --lr 1e-5", capsys, monkeypatch)
    assert "lies_here lies in the working folder" in printed.replace("\n    ", " ")
    next_ = printed.partition("next: ")[2].replace(" \\\n    ", " ").strip()
    assert next_.startswith("PYTHONPATH=. ") and next_.endswith("Sft --lr 1e-5 --module lies_here"), next_


def test_the_policy_is_never_suggested_as_the_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.cli import invocation

    monkeypatch.setattr(invocation, "_given", ["SteerLm", "--model", "./my-model", "--reward", "./my-modl"])
    error = ConfigError("not-found", "./my-modl is no model", wrong=("./my-modl",), nearest="my-model")
    assert command.next_command(error).endswith("SteerLm --help")
    assert error.what == "./my-modl is no model"


def test_a_task_is_found_in_any_case() -> None:
    known = ["DpoIteration", "Preference", "Sft"]
    assert near_task("sft", known) == "Sft"
