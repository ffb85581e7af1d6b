"""`--config FILE`: flags from a YAML or JSON file, under those of the command line; faults with their lines; what is
hostile is refused at once.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import luigi.configuration
import pytest
from luigi.cmdline_parser import CmdlineParser

from pipelines.cli import invocation
from pipelines.cli.flag_words import parameters_of, words_of
from pipelines.cli.flags_file import with_file
from pipelines.cli.learning import flags_given, learning_of
from pipelines.cli.yaml_entries import LIMIT, entries_of
from pipelines.runtime import command
from pipelines.runtime.settings import quiver
from schemas.errors import ConfigError
from tests.conftest import ROOT

RUN = """\
# as somebody keeps it who comes from TRL
model: ./my-model
data: rows.jsonl
lr: 1e-5
eval-share: .2
packing: true
date: 2025-01-31
experiment: 007
keep: [a, b]
columns: {prompt: question, response: null}
options: {average: yes}
learning:
  optim: {schedule: cosine, warmup_steps: 10}
  save_every: 100
set:
  optim.weight_decay: 0
template:
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def task_of(text: str, words: str, name: str = "run.yaml") -> Any:
    """The task of a command with `--config`, the file `name` holding `text`."""
    Path(name).write_text(text)
    given = shlex.split(f"{words} --config {name}")
    invocation.given(given)
    with CmdlineParser.global_instance(with_file(given)) as parser:
        task = parser.get_task_obj()
        task.at_parse = {kind.__name__: kind() for kind in [*getattr(task, "sections", ())[:-1], quiver]}
        return task


def learnt(text: str, words: str) -> dict[str, Any]:
    return learning_of(task_of(text, words))


def refused(text: str, words: str = "Sft", name: str = "run.yaml") -> ConfigError:
    Path(name).write_text(text)
    given = shlex.split(f"{words} --config {name}")
    invocation.given(given)
    with pytest.raises(ConfigError) as caught:
        with_file(given)
    return caught.value


def test_a_file_says_what_flags_would() -> None:
    task = task_of(RUN, "Sft")
    assert (task.model, task.data, task.eval_share, task.packing) == ("./my-model", "rows.jsonl", 0.2, True)
    assert (task.date, task.experiment, task.keep, task.template) == ("2025-01-31", "007", "a,b", "")
    assert dict(task.columns) == {"prompt": "question", "response": None}
    assert dict(task.options) == {"average": "yes"}
    optim = {"schedule": "cosine", "warmup_steps": 10, "lr": 1e-5, "weight_decay": 0}
    assert learning_of(task) == {"epochs": 1, "global_batch_size": 32, "optim": optim, "save_every": 100}


def test_json_is_read_too() -> None:
    text = json.dumps(
        {"model": "m", "data": "d", "source_name": "näher 😀", "learning": {"optim": {"lr": 1e-7}}}, indent="\t"
    )
    task = task_of(text, "Sft", "run.json")
    assert (task.model, task.source_name, learning_of(task)["optim"]["lr"]) == ("m", "näher 😀", 1e-7)


@pytest.mark.parametrize(
    ("text", "words", "changes"),
    [
        ("lr: 1", "--lr 2", {"optim": {"lr": 2}}),
        ("lr: 1", "--set optim.lr=2", {"optim": {"lr": 2}}),
        ("lr: 1", """--learning '{"optim": {"lr": 2}}'""", {"optim": {"lr": 2}}),
        ("learning: {optim: {lr: 1, warmup_steps: 3}}", "--lr 2", {"optim": {"lr": 2, "warmup_steps": 3}}),
        ("set: {optim.lr: 1, epochs: 4}", "--set optim.lr=2", {"optim": {"lr": 2}, "epochs": 4}),
        ("set: [optim.lr=1]", "--lr 2", {"optim": {"lr": 2}}),
        ("epochs: 5", "--set max_steps=7", {"max_steps": 7}),
        ("learning: '{\"epochs\": 2}'\nbatch_size: 4", "--epochs 3", {"epochs": 3, "global_batch_size": 4}),
    ],
)
def test_the_command_line_wins_and_leaves_the_rest(text: str, words: str, changes: dict[str, Any]) -> None:
    default = {"epochs": 1, "global_batch_size": 64, "optim": {"lr": 1e-5}}
    if "max_steps" in changes:
        del default["epochs"]
    given = learnt(f"model: policy\ndata: elsewhere\n{text}", f"Train --data rows {words}")
    assert given == {**default, **changes, "optim": {**default["optim"], **changes.get("optim", {})}}  # type: ignore[dict-item]


def test_a_setting_of_the_algorithm_gives_way_to_options_of_the_command_line() -> None:
    task = task_of("beta: 0.3\noptions: {label_smoothing: 0.1}", """Preference --options '{"beta": 0.2}'""")
    assert dict(task.options) == {"beta": 0.2} and task.changes == {}
    assert learning_of(task).get("settings", {}) == {}
    assert flags_given(task_of("beta: 0.3", "Preference --beta 0.4")) == {"settings.beta": 0.4}


def test_it_lies_over_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    config = luigi.configuration.get_config()
    for key, value in {"lr": "3", "learning": '{"save_every": 5, "epochs": 9}', "eval_share": "0.5"}.items():
        config.set("Sft", key, value)
    try:
        task = task_of("lr: 1\nlearning: {epochs: 2}", "Sft")
        assert learning_of(task) == {"epochs": 2, "global_batch_size": 32, "optim": {"lr": 1}, "save_every": 5}
        assert task.eval_share == 0.5
        config.set("Sft", "config", "run.yaml")
        Path("run.yaml").write_text("experiment: named")
        invocation.given(["Sft"])
        assert "--experiment=named" in with_file(["Sft"])
    finally:
        config.remove_section("Sft")


def test_iterations_and_their_setups_have_them_too() -> None:
    text = """\
setup: digits
samples_per_prompt: 3
thresholds: [0.5]
digits_held_out: 64
digits_base: {epochs: 2}
quiver_seed: 11
workers: 2
set:
  improve.optim.lr: 1e-4
  base:
    optim: {lr: 0.5}
"""
    task = task_of(text, "RestIteration --samples-per-prompt 4")
    assert (task.samples_per_prompt, tuple(task.thresholds), task.at_parse["quiver"].seed) == (4, (0.5,), 11)
    digits = task.at_parse["digits"]
    assert digits.held_out == 64 and (digits.base["epochs"], digits.base["optim"]["lr"]) == (2, 0.5)
    assert digits.improve["optim"]["lr"] == 1e-4 and digits.improve["optim"]["warmup_steps"] == 10


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("model: m\n\nlearning_rate: 1", "line 3: unknown key learning_rate (did you mean lr?)"),
        ("model_name_or_path: m", "line 1: unknown key model_name_or_path (did you mean model?)"),
        ("max_seq_length: 8", "line 1: unknown key max_seq_length (did you mean max_length?)"),
        ("weight_decay: 0", "line 1: unknown key weight_decay (did you mean learning.optim.weight_decay?)"),
        ("module: os", "line 1: unknown key module"),
        ("config: other.yaml", "line 1: unknown key config"),
        ("learning:\n  optim:\n    lrr: 1", "line 3: unknown key optim.lrr (did you mean optim.lr?)"),
        ("learning:\n  epochs: many", 'line 2: epochs: "many" is not a whole number'),
        ('learning: {optim: {lr: "1"}}', 'line 1: optim.lr: "1" is not a finite number'),
        ("lr: fast", "line 1: lr: 'fast' is not a number"),
        ("lr: [1]", "line 1: lr: [1] cannot be handed on"),
        ("epochs: 1.5", "line 1: epochs: '1.5' is not a whole number"),
        ("packing: yes", "line 1: packing: yes is not true or false"),
        ("columns: 5", "line 1: columns: 5 is not JSON of an object"),
        ("learning: 5", "line 1: 5 is not JSON of an object"),
        ("learning: [5]", "line 1: learning: [5] is not a mapping"),
        ("model: {a: 1}", "line 1: model: {'a': 1} cannot be handed on"),
        ("set: [optim.lr]", "line 1: optim.lr is not of the form key=value"),
        ("max-length: 1\nmax_length: 2", "line 2: max_length again, after line 1"),
        ("lr: x\nepochs: y\nmodl: m", "line 3: unknown key modl (did you mean model?)"),
    ],
)
def test_faults_are_named_with_their_line(text: str, faults: str) -> None:
    error = refused(text)
    assert error.slug in ("unknown-key", "bad-setting") and faults in error.what
    assert error.where == "run.yaml" and "correct run.yaml" in error.next
    assert text.count("lr: x") == 0 or error.what.count("line ") == 3


def test_a_list_is_texts_with_commas_and_no_number_in_python_either() -> None:
    flags = parameters_of("Sft")
    assert words_of("Sft", flags, "keep", ["a", "b"]) == ["--keep=a,b"]
    for name in ("lr", "epochs"):
        with pytest.raises(ConfigError, match="cannot be handed on"):
            words_of("Sft", flags, name, [1, 2])


def test_what_is_given_twice_in_one_file_is_refused() -> None:
    assert refused("lr: 1\nset: [optim.lr=2]").what == "optim.lr is given twice"


DEEP = {
    "anchors that multiply": "a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(30)),
    "merge keys": "base: &base {lr: 1}\nother:\n  <<: *base\n",
    "a tag": "model: !!python/object/apply:os.system [true]\n",
    "a tag of our own": "model: !thing 5\n",
    "deep flow": "model: " + "[" * 100_000,
    "deep block": "".join(" " * depth + "a:\n" for depth in range(600)),
    "questions": "? " * 130_000,
    "dashes": "- " * 130_000,
    "many values": "columns: {" + ",".join(f"k{number}: 1" for number in range(20_000)) + "}",
    "large": "#" * (LIMIT + 1),
    "a control character": "model: \x00",
    "no UTF-8": b"model: m\ndata: \xff",
    "two documents": "model: m\n---\nmodel: n\n",
    "a list": "- model\n",
    "a key twice": "model: m\nlr: 1\nmodel: n\n",
    "a list as key": "? [a]\n: 1\n",
    "half a character": '{"model": "\\ud83d"}',
    "a number that would be 0": "lr: 1e-400",
    "a number beyond all bounds": "lr: 1e999",
    "thousands of digits": "seed: " + "9" * 10_000,
}
LINES = {"no UTF-8": 2, "two documents": 2, "a key twice": 3, "merge keys": 1, "deep block": 17}


@pytest.mark.parametrize("case", DEEP)
def test_a_hostile_file_is_refused_before_it_costs_anything(case: str) -> None:
    text, started = DEEP[case], time.process_time()
    Path("run.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        entries_of("run.yaml")
    assert caught.value.slug == "bad-configuration" and time.process_time() - started < 2
    assert caught.value.where.startswith("run.yaml") and len(caught.value.render()) < 1000
    if case in LINES:
        assert caught.value.where == f"run.yaml, line {LINES[case]}"


def test_what_a_tag_names_is_not_made(folder: Path) -> None:
    text = f"model: !!python/object/apply:os.system ['touch {folder}/canary']\n"
    error = refused(text)
    assert "python/object/apply" in error.found and not (folder / "canary").exists()


def test_the_largest_file_that_is_read_stays_small_in_memory(folder: Path) -> None:
    """The worst within the limits, in a process of its own that may have 64 MiB more than it needs to start."""
    rows = ["columns:", *(f"  key{number}: '{'x' * 12}'" for number in range(4_900)), "# " + "x" * 100_000]
    (folder / "run.yaml").write_text("\n".join(rows))
    script = """
import resource
from pipelines.runtime.settings import quiver
from pipelines.cli.yaml_entries import entries_of
import yaml
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert len(entries_of("run.yaml")["columns"].below) == 4900
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 64 << 10


@pytest.mark.parametrize("place", ["absent.yaml", "folder", "/dev/zero"])
def test_what_is_no_file_is_refused(place: str, folder: Path) -> None:
    (folder / "folder").mkdir()
    invocation.given(["Sft", "--config", place])
    with pytest.raises(ConfigError) as caught:
        with_file(["Sft", "--config", place])
    assert caught.value.slug == ("no-such-file" if place == "absent.yaml" else "bad-configuration")


def test_commands_that_follow_keep_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("run.yaml").write_text("data: rows.jsonl\nquiver_root: elsewhere\nworkers: 0\n")
    with pytest.raises(SystemExit) as ended:
        command.run(["Sft", "--config", "run.yaml"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.rstrip().endswith("Sft --config run.yaml --workers 1")
    assert invocation.command("Evaluate")[-2:] == ["Evaluate", "--quiver-root=elsewhere"]
    assert [word for word in invocation.again(lr=2) if not word.endswith("luigi")] == [
        *("--module", "pipelines", "Sft", "--config", "run.yaml", "--lr", "2")
    ]
