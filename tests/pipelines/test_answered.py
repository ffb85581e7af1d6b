"""A command that cannot be is answered with one that can, called as the user called it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from commands import environment
from small_model import write

from datakit.columns.measurement import FiniteValues
from datakit.filter import Threshold
from datakit.formats.forms import FORMS
from datakit.io import Jsonl
from datakit.label import Length
from datakit.op import Op
from datakit.run.output import check_budget
from datakit.template import Chat
from pipelines.cli import invocation
from pipelines.cli.known_commands import commands
from pipelines.commands import usage
from pipelines.commands.command import Command
from pipelines.runtime import command
from quiver import inventory
from schemas import Dataset, installed
from schemas.errors import ConfigError, DataError
from schemas.untrusted import exact_json
from trainers.registry import algorithms

REWARDED = FORMS["rewarded"].schema
Answer = Callable[[str], tuple[str, str]]


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Answer:
    """Runs a command that is refused, in a folder with rows; the error without its last line, and the next command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/bin/quiver"])
    monkeypatch.setattr(invocation, "program", lambda name: name)
    monkeypatch.setattr(installed, "program", lambda name: name)
    for name in ("rows-1", "rows-2", "other-1"):
        rows = {"sample_id": ["a"], "prompt_id": ["p"], "response": ["x"], "reward": [1.0], "sample_index": [0]}
        messages = [[{"role": "user", "content": "q"}]]
        Dataset.from_arrow(REWARDED.conform(pa.table({**rows, "messages": messages})), REWARDED, str(tmp_path / name))

    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt": "c", "response": "d"}\n')
    (tmp_path / "my rows.jsonl").touch()
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    write(tmp_path / "m")

    def refused(words: str) -> tuple[str, str]:
        with pytest.raises(SystemExit) as left:
            command.run(["--module", "pipelines", *shlex.split(words)])
        assert left.value.code in (2, 10)
        text, _, following = capsys.readouterr().err.rpartition("  next: ")
        return text, following.strip()

    return refused


CASES = r"""
Train
    Train needs --data
    quiver Train --data TOKENS --algorithm sft --model CHECKPOINT
Train --lr 1e-4
    Train needs --data
    quiver Train --lr 1e-4 --data TOKENS --algorithm sft --model CHECKPOINT
Label --data rows-1
    Label needs --op
    quiver Label --data rows-1 --op reward --model CHECKPOINT
Generate --model m
    Generate needs --prompts
    quiver Generate --model m --prompts prompts.jsonl --samples-per-prompt 16
ExportModel
    ExportModel needs --model
    quiver ExportModel --model CHECKPOINT
Filter --op where
    predicate is missing
    quiver ops filter.where
Filter --op threshold --params '{"minimum": 1}'
    filter.threshold reads rows; no --data was given
    quiver Filter --op threshold --params '{"minimum": 1}' --data FOLDER_OR_FILE
Tran --data rows-1
    there is no task Tran (did you mean Train?)
    quiver Train --data rows-1
Train --data rows-1 --learning-rate 1e-4
    did you mean --lr?
    quiver Train --data rows-1 --lr 1e-4
Train --data rows-1 --warmup 5
    --set optim.warmup_steps=...
    quiver Train --data rows-1 --set optim.warmup_steps=5
Train --data rows.jsonl --model m --lr 1e-4
    rows.jsonl is a file, not a dataset of token rows
    quiver Sft --model m --data rows.jsonl --lr 1e-4
Train --data pairs.jsonl --init m --algorithm rm --set optim.lr=1e-4
    or RewardModel, which makes the tokens of a file itself
    quiver RewardModel --model m --data pairs.jsonl --algorithm rm --set optim.lr=1e-4
Train --data pairs.jsonl --model m
    found: a file in the format preferences
    quiver Preference --model m --data pairs.jsonl
Sft --model m --data rows.jsonl --template textt
    did you mean text?
    quiver Sft --model m --data rows.jsonl --template text
Preference --model m --data pairs.jsonl --template text --algorithm dop
    did you mean dpo?
    quiver Preference --model m --data pairs.jsonl --template text --algorithm dpo
Sft --model m --data rows.jsonl --set optim.learning_rate=1e-4
    did you mean optim.lr?
    quiver Sft --model m --data rows.jsonl --set optim.lr=1e-4
Sft --model m --data rows.jsonl --lr -1
    -1 is not between 0 and inf
    quiver Sft --model m --data rows.jsonl
Sft --model m --data rows.jsonl --eval-data rows.jsonl --eval-share 0.1
    --eval-share: --eval-data has the rows to judge by
    quiver Sft --model m --data rows.jsonl --eval-data rows.jsonl
Sft --model m --data rows.jsonl --eval-share 1.5
    1.5 is not between 0 and 1
    quiver Sft --model m --data rows.jsonl --eval-share 0.05
Sft --model m --data rows.jsonl --eval-share 1.5 --lr -1
    --lr: -1 is not between
    quiver Sft --model m --data rows.jsonl --eval-share 0.05
DpoIteration --pairs all
    one of all_pairs,
    quiver DpoIteration --pairs all_pairs
Generate --model m --prompts rows.jsonl --max-new-tokens 600
    answers of 600 tokens leave no room for a question
    quiver Generate --model m --prompts rows.jsonl --max-new-tokens 32
Import --files my rows.jsonl --format completions
    together name a place
    quiver Import --files 'my rows.jsonl' --format completions
Filter --op where --data rows-1 --params '{"predicate": "rewrd > 0"}'
    found: columns sample_id,
    quiver Filter --op where --data rows-1 --params '{"predicate": "reward > 0"}'
Filter --op where --data rows-1 --params '{"predicate": "reward >> "}'
    is not an expression: it ends too early
    quiver Filter --help
Train --data rows-1 rows-2
    --data was given 2 values
    quiver Train --data rows-1
RestIteration --set optim.lrr=1
    unknown key optim.lrr (did you mean optim.lr?)
    quiver RestIteration --set optim.lr=1
RestIteration --thresholds 0.5
    is not JSON of a list
    quiver RestIteration --thresholds '[0.5]'
RestIteration --set baze=1
    unknown key baze
    quiver RestIteration --help
Filter --op where --data rows-1 --params '{"predicat": "reward > 0"}'
    did you mean predicate?
    quiver Filter --op where --data rows-1 --params '{"predicate": "reward > 0"}'
Filter --op where --data rows-1 --params '{"predicate": "reward > 0", "max_rejected": 0.5}'
    it is set by --quiver-max-rejected
    quiver Filter --op where --data rows-1 --params '{"predicate": "reward > 0"}' --quiver-max-rejected 0.5
Filter --op threshold --data 'rows-*'
    rows-* matches 2 places
    quiver Filter --op threshold --data rows-2
Blend --op shuffle --data 'rows-*'
    rows-1, rows-2
    quiver Blend --op shuffle --data rows-1,rows-2
Filter --op threshold --data 'none-*/x'
    nothing matches none-*/x
    ls .
Template --op chat --data rows-1
    template.chat needs tokenizer
    quiver Template --op chat --data rows-1 --tokenizer CHECKPOINT
Filter --quiver-max-rejected 2 --op where --data rows-1
    --quiver-max-rejected: 2 is not between 0 and 1
    -
Filter --op where --data rows-1 --params '{"predicate": "a", "predicate": "b"}'
    key given twice: predicate
    -
Filter --op threshold --data rows-1 --params '{"minimum": 1e-400}'
    1e-400 is too small a number
    -
Filter --op threshold --data rows-1 --params '{"minimum": "x"}'
    minimum: "x" is not a finite number
    quiver ops filter.threshold
Train --data rows-1 --model m --learning '{"optim": 3}'
    optim: 3 is not an object
    quiver Train --help
"""
"""A command, a part of the error, and the command that is named next (-: another one that begins alike)."""


@pytest.mark.parametrize(
    "case", re.findall(r"^(\S.*)\n    (.*)\n    (.*)$", CASES, re.MULTILINE), ids=lambda case: case[0]
)
def test_a_wrong_command_is_answered_with_one_that_can_be(case: tuple[str, str, str], answer: Answer) -> None:
    given, shown, following = case
    text, next_ = answer(given)
    assert shown in text
    assert next_ == following if following != "-" else next_.startswith("quiver Filter")
    assert "Traceback" not in text and "(data, out" not in text


def test_settings_are_listed_shortly_and_none_that_is_not_the_users(answer: Answer) -> None:
    text, _ = answer("RestIteration --set optim.momentumm=1")
    [expected] = re.findall("expected: (.*)", text)
    assert expected.startswith("settings of optim: ") and "lr (needed)" in expected and len(expected) < 250
    text, _ = answer("RestIteration --set baze=1")
    [expected] = re.findall("expected: (.*)", text)
    assert len(expected) < 300 and not re.search(r"\b(data|out|work|facts|algorithm|model|seed) \(", expected)


@pytest.mark.parametrize("known", ["rm", "orpo"])
def test_rows_of_another_algorithm_are_learnt_by_that(known: str, answer: Answer, tmp_path: Path) -> None:
    rows = algorithms()[known].rows
    Dataset.from_arrow(rows.empty(), rows, str(tmp_path / "tokens"))
    text, next_ = answer("Train --data tokens --model m --lr 1e-5")
    assert f"sft learns nothing from rows of {rows.name}" in text and "chosen_ids" in text
    assert next_ == f"quiver Train --data tokens --model m --lr 1e-5 --algorithm {known}"


def test_a_pattern_with_one_match_is_that_match(answer: Answer) -> None:
    text, _ = answer("Filter --op where --data 'other-*'")
    assert "predicate is missing" in text


def test_a_reference_that_is_no_model_says_what_is_there(answer: Answer, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n')
    (tmp_path / "empty").mkdir()
    there = {"nowhere": "no such place", "empty": "a folder without files of a model", "prompts.jsonl": "a file"}
    for reference, place in there.items():
        text, _ = answer(f"Generate --model ./{reference} --prompts prompts.jsonl --max-new-tokens 8")
        assert f"./{reference} is no model" in text and f"found: {place}\n" in text


def test_rows_beyond_the_budget_name_the_flag_that_allows_them(answer: Answer, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "response": "b"}\n' * 3 + "no json\n")
    text, next_ = answer("Import --files bad.jsonl")
    assert "io.jsonl rejected 1 of the first 4 rows" in text
    assert next_ == "quiver Import --files bad.jsonl --quiver-max-rejected 0.25"
    assert not list((tmp_path / "quiver-data").glob("import/*")), "what failed leaves no folder"
    with pytest.raises(DataError) as fault:
        check_budget(Jsonl(files=("a",), format="prompts", digests=("",)), {"broken": 1}, 3, 0, ["a:1"], {})
    assert fault.value.next == "--quiver-max-rejected 0.34", "rounded up: 0.33 of 3 rows is none"


@pytest.mark.parametrize(
    ("op", "slug", "start"),
    [
        (Jsonl(files=("a b",), format="prompts", digests=("",)), "wrong-type", "quiver show 'a b'"),
        (Chat(), "template-failed", "choose another chat template"),
        (Length(), "odd", "change the rows"),
    ],
)
def test_no_command_lets_every_row_go(op: Op, slug: str, start: str) -> None:
    with pytest.raises(DataError) as fault:
        check_budget(op, {slug: 3}, 3, 0, ["a:1"], {})
    assert fault.value.next.startswith(start) and "max-rejected" not in fault.value.next


@pytest.mark.parametrize("program", ["quiver", "luigi"])
def test_suggestions_call_the_command_as_the_user_did(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [f"/somewhere/bin/{program}"])
    monkeypatch.setattr(invocation, "program", lambda name: name)
    monkeypatch.setattr(installed, "program", lambda name: name)
    invocation.given(["--module", "pipelines", "Train", "--data", "x"])
    called = {"quiver": "quiver", "luigi": "luigi --module pipelines"}[program]
    assert shlex.join(invocation.again()) == f"{called} Train --data x"
    for other in ("luigi --module pipelines Label --op length", "quiver Label --op length"):
        assert invocation.runnable(other) == f"{called} Label --op length"
    assert invocation.runnable("quiver ops label.length") == "quiver ops label.length"
    assert invocation.runnable("--lr 1") == f"{called} Train --data x --lr 1"
    here = str(Path.cwd())
    invocation.given(["Train", "--data", f"{here}/x y", f"--model={here}/m", "--quiver-root", f"{here}/r"])
    again = f"{called} Train --data '{here}/x y' --model={here}/m --quiver-root {here}/r --lr 1"
    assert invocation.runnable("--lr 1") == again, "places stay as they were given"
    for given, printed in (("m", f"{here}/m"), ("n", "n")):
        other = f"luigi --module pipelines Evaluate --model {here}/{given}"
        assert invocation.runnable(other) == f"{called} Evaluate --model {printed} --quiver-root {here}/r"
    invocation.given(["--module", "toy", "Toy"])
    own = {"quiver": ["quiver", "Toy", "--module", "toy"], "luigi": ["luigi", "--module", "toy", "Toy"]}
    assert invocation.again() == own[program]


def test_every_command_has_an_example_of_its_own_flags_and_is_listed_by_quiver() -> None:
    listed = {name for name, *_ in (*inventory.stages(), *inventory.recipes())}
    ours = {name: kind for name, kind in commands().items() if kind.__module__.startswith("pipelines.")}
    assert listed == set(ours) and not any(name.startswith("_") for name in listed)
    for name, kind in ours.items():
        flags = set(re.findall("--([a-z-]+)", kind.example))
        assert flags <= {flag.replace("_", "-") for flag, _ in kind.get_params()}, name
        needed = {flag for flag, parameter in kind.get_params() if not parameter.has_task_value(name, flag)}
        assert needed <= {flag.replace("-", "_") for flag in flags}, f"{name}: {needed}"
    assert issubclass(commands()["Train"], Command)


def test_help_of_training_lists_algorithms_and_settings() -> None:
    text = "\n".join(usage.page(commands()["Train"]))
    assert re.search(r"^  dpo +Direct preference", text, re.MULTILINE)
    assert re.search(r"^  optim.lr +default: 1e-05", text, re.MULTILINE)
    assert not re.search(r"^  (data|out|work|seed|algorithm) ", text, re.MULTILINE)


def test_help_of_a_recipe_shows_what_is_learnt_with_where_no_flag_says_otherwise() -> None:
    text = " ".join(" ".join(usage.page(commands()["Sft"])).split())
    for flag, default in {"lr": "1e-05", "epochs": "1", "batch-size": "32", "eval-steps": "empty"}.items():
        assert re.search(rf"--{flag} [^\[]*\[default: {default}\]", text), flag


def test_short_help_answers_as_the_long_one(tmp_path: Path) -> None:
    def call(*words: str) -> str:
        program = [str(Path(sys.executable).with_name("luigi")), "--module", "pipelines", *words]
        done = subprocess.run(program, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
        return done.stdout

    assert call("Filter", "-h") == call("Filter", "--help") != ""


def test_quantiles_of_the_greatest_numbers_are_finite(tmp_path: Path) -> None:
    rows = pa.table({"sample_id": ["a", "b"], "prompt_id": ["p", "q"], "response": ["x", "y"], "sample_index": [0, 0],
                     "reward": [-1.7e308, 1.7e308], "messages": [[{"role": "user", "content": "q"}]] * 2})  # fmt: skip
    values = FiniteValues(Dataset.from_arrow(REWARDED.conform(rows), REWARDED, str(tmp_path / "rows")), "reward")
    assert values.at(0.5) == 0.0 and values.at(0.25) == pytest.approx(-0.85e308)


def test_a_bound_that_is_no_number_is_refused_from_python_too() -> None:
    with pytest.raises(ConfigError, match="'x' is no number"):
        Threshold(minimum="x")  # type: ignore[arg-type]


def test_settings_are_read_exactly() -> None:
    assert exact_json('{"a": 1e-300, "b": 0.0, "c": 0e5}') == {"a": 1e-300, "b": 0.0, "c": 0.0}
    for text in ('{"a": 1, "a": 2}', "1e-400", "-0.0000001e-330", "1e400", "NaN"):
        with pytest.raises(ValueError, match=r"twice|too small|too large|no JSON"):
            exact_json(text)
    assert json.loads("1e-400") == 0.0, "what it would have been"
