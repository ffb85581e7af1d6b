"""What flags come to: settings lie over the defaults, and what cannot be is refused with our words, exit code 2."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import luigi
import pytest
from luigi.cmdline_parser import CmdlineParser
from luigi.task_register import Register

from pipelines.cli import flags_file, invocation
from pipelines.cli.learning import learning_of
from pipelines.graph.nodes import TrainedCheckpoint
from pipelines.graph.order import ordered
from pipelines.runtime import command
from schemas.errors import ConfigError

TRAIN = "Train --data rows --init policy"
DEFAULT = {"epochs": 1, "global_batch_size": 64, "optim": {"lr": 1e-5}}


def learning(flags: str) -> dict[str, Any]:
    """What the command learns with."""
    with CmdlineParser.global_instance(shlex.split(f"{TRAIN} {flags}")) as parser:
        task: Any = parser.get_task_obj()
        return learning_of(task)


@pytest.mark.parametrize(
    ("flags", "changes"),
    [
        ("", {}),
        ("""--learning '{"optim": {"lr": 1e-4}}'""", {"optim": {"lr": 1e-4}}),
        ("--set optim.lr=1e-4 --set epochs=2", {"optim": {"lr": 1e-4}, "epochs": 2}),
        ("--lr 1e-4 --epochs 2 --batch-size 8", {"optim": {"lr": 1e-4}, "epochs": 2, "global_batch_size": 8}),
        ("--set optim.betas=0.9,0.95", {"optim": {"lr": 1e-5, "betas": [0.9, 0.95]}}),
        ("--set log_rows=True --set track=wandb", {"log_rows": True, "track": ["wandb"]}),
        ("--set lora.rank=4 --set lora.alpha=8", {"lora": {"rank": 4, "alpha": 8}}),
    ],
)
def test_flags_change_what_they_name_and_keep_the_rest(flags: str, changes: dict[str, Any]) -> None:
    assert learning(flags) == {**DEFAULT, **changes}


def test_a_recipe_changes_what_the_key_begins_with_and_without_a_first_word_its_own_training(tmp_path: Path) -> None:
    words = "RestIteration --set optim.lr=1e-4 --set improve.epochs=3 --set base.optim.lr=0.5 --set base.epochs=2"
    learnt = learnt_by(f"{words} --set model.num_layers=2 --set reward.max_steps=700 --quiver-root {tmp_path}")
    first, reward = learnt["digits/policy"], learnt["digits/reward-model"]
    for step in ("rest/digits/iter=1/step=1/policy", "rest/digits/iter=1/step=2/policy"):
        assert (learnt[step].optim.lr, learnt[step].epochs, learnt[step].optim.warmup_steps) == (1e-4, 3, 10)
    assert (first.optim.lr, first.epochs, first.model.num_layers, first.optim.warmup_steps) == (0.5, 2, 2, 50)
    assert (reward.optim.lr, reward.epochs, reward.max_steps) == (7e-4, None, 700)


def test_the_recipe_of_preferences_too(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    words = f"""PreferenceOptimization --preferences-files '["{tmp_path}/pairs.jsonl"]' --quiver-root {tmp_path}"""
    learnt = learnt_by(f"{words} --set settings.beta=0.2 --set learning.optim.lr=1e-4 --set base.epochs=2")
    policy, first = learnt["dpo/preferences/policy"], learnt["preferences/policy"]
    assert (policy.settings, policy.optim.lr, policy.epochs) == ({"beta": 0.2}, 1e-4, 4)
    assert (first.optim.lr, first.epochs) == (1e-3, 2)


@pytest.mark.parametrize(
    ("words", "change", "expected"),
    [
        ("DpoIteration", "improve.optim.lr=6e-5", "base, architecture, model, reward, or a key without a first word"),
        ("SpinIteration", "improve.epochs=2", "base, architecture, model, reward, or a key without a first word"),
        ("PreferenceOptimization --preferences-files PAIRS", "reward.optim.lr=6e-5", "base, architecture, model, or"),
        ("PreferenceOptimization --preferences-files PAIRS", "improve.optim.lr=6e-5", "base, architecture, model, or"),
    ],
)
def test_a_change_that_nothing_comes_of_is_refused(words: str, change: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    words = f"{words.replace('PAIRS', json.dumps(json.dumps([f'{tmp_path}/pairs.jsonl'])))} --quiver-root {tmp_path}"
    learnt_by(words)
    with pytest.raises(ConfigError) as caught:
        learnt_by(f"{words} --set base.epochs=2 --set {change}")
    first, _, rest = change.partition(".")
    assert caught.value.what.startswith(f"--set {change} changes nothing: nothing of this recipe comes of {first} of")
    assert (caught.value.expected or "").startswith(expected) and caught.value.next == f"--set {rest}"
    learnt_by(f"{words} --set base.epochs=2 {caught.value.next}")


SMALLER = json.dumps({"optim": {"lr": 6e-5}})
FILES = """--preferences-files '["pairs.jsonl"]'"""


@pytest.mark.parametrize(
    ("given", "flag", "cure"),
    [
        ("DpoIteration", "digits-improve", f"DpoIteration --learning '{SMALLER}'"),
        ("SpinIteration --learning '{}'", "digits-improve", "SpinIteration --learning '{}'"),
        (f"PreferenceOptimization {FILES}", "preferences-reward", f"PreferenceOptimization {FILES}"),
    ],
)
def test_a_flag_of_a_setup_that_nothing_comes_of_is_refused(
    given: str, flag: str, cure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    (tmp_path / "flags.yaml").write_text(f"{flag}: {SMALLER}\n")
    (setup, part), words = flag.split("-"), shlex.split(given)
    what = f"--{flag} changes nothing: nothing of this recipe comes of {part} of the setup {setup}"
    with pytest.raises(ConfigError) as caught:
        planned(*words, f"--{flag}", SMALLER)
    assert caught.value.what == what and caught.value.next.endswith(f" {cure}")
    with pytest.raises(ConfigError) as caught:
        planned(*words, "--config", "flags.yaml")
    assert (caught.value.what, caught.value.next.split(",")[0]) == (what, f"take {flag} out of the file of --config")
    planned(*shlex.split(cure))


def test_a_section_that_nothing_comes_of_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A configuration is shared by all recipes: it is no error that another one reads it."""
    config = luigi.configuration.get_config()
    config.set("digits", "improve", SMALLER)
    Register.clear_instance_cache()
    try:
        assert (
            learnt_by("DpoIteration") and "improve in section [digits] of luigi.cfg changes" in capsys.readouterr().err
        )
        assert learnt_by("RestIteration") and "changes nothing" not in capsys.readouterr().err
    finally:
        config.remove_option("digits", "improve")


def planned(*words: str) -> None:
    """Make the graph of a command, with its file of flags, as its program does."""
    invocation.given(words)
    Register.clear_instance_cache()
    try:
        with CmdlineParser.global_instance(flags_file.with_file(words)) as parser:
            task: Any = parser.get_task_obj()
            assert task.targets
    finally:
        invocation.given([])


def learnt_by(words: str) -> dict[str, Any]:
    """What the trainings of a command's graph learn, by label."""
    with CmdlineParser.global_instance(shlex.split(words)) as parser:
        task: Any = parser.get_task_obj()
        nodes = ordered(task.targets)
    return {node.label: node.training.learning for node in nodes if isinstance(node, TrainedCheckpoint)}


def test_steps_take_the_place_of_epochs() -> None:
    expected = {"max_steps": 3, "global_batch_size": 64, "optim": {"lr": 1e-5}}
    assert learning("--set max_steps=3") == learning("""--learning '{"max_steps": 3}'""") == expected


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (f"{TRAIN} --set learning_rate=1", "unknown key learning_rate (did you mean optim.lr?)"),
        (f"{TRAIN} --set lr=1", "unknown key lr (did you mean optim.lr?)"),
        (f"{TRAIN} --set batch_size=1", "unknown key batch_size (did you mean global_batch_size?)"),
        (f"{TRAIN} --set optim.lrr=1", "unknown key optim.lrr (did you mean optim.lr?)"),
        (f"{TRAIN} --set epochs=many", 'epochs: "many" is not a whole number'),
        (f"{TRAIN} --set epochs", "epochs is not of the form key=value"),
        (f"{TRAIN} --set epochs=1 --epochs 2", "epochs is given twice"),
        (f"{TRAIN} --set epochs.x=1", "epochs has no keys: it is a whole number or null"),
        (f"{TRAIN} --set data=x", "unknown key data"),
        (f"{TRAIN} --set seed=1", "seed cannot be set here"),
        ("RestIteration --set learning_rate=1", "unknown key learning_rate (did you mean optim.lr?)"),
        ("RestIteration --set base.optim.lrr=1", "unknown key optim.lrr (did you mean optim.lr?)"),
        ("RestIteration --set optim.lr=-1", "optim.lr -1.0 is below 0"),
        ("RestIteration --lr 1", "there is no parameter --lr (did you mean --set optim.lr=...?)"),
        ("RestIteration --iter 2", "there is no parameter --iter (did you mean --iteration?)"),
        ("PreferenceOptimization --batch-size 1", "(did you mean --set global_batch_size=...?)"),
        (f"{TRAIN} --lr -1", "--lr: -1 is not between 0 and inf"),
        (f"{TRAIN} --lr x --epochs y", "--lr: 'x' is not a number; --epochs: 'y' is not a whole number"),
        (f"{TRAIN} --batch-size 0", "--batch-size: 0 is below 1, the least there can be"),
        (f"{TRAIN} --ranks -2", "--ranks: -2 is below 0, the least there can be"),
        (f"{TRAIN} --learning 5", """--learning: 5 is not JSON of an object: '{"key": value}'"""),
        (f"{TRAIN} --learning-rate 1", "there is no parameter --learning-rate (did you mean --lr?)"),
        (
            f"{TRAIN} --weight-decay 0",
            "there is no parameter --weight-decay (did you mean --set optim.weight_decay=...?)",
        ),
        (f"{TRAIN} --temperature 1", "there is no parameter --temperature of Train; it belongs to "),
        ("Import --set lr=1", "Distill, DpoIteration, DraftPlus, Grpo, "),
        ("RestIteration --thresholds 0.5", "--thresholds: 0.5 is not JSON of a list: '[0.5]'"),
        ("RestIteration --thresholds '[\"a\"]'", "thresholds holds 'a', which is not a number"),
        ("RestIteration --prompts-per-iteration -5", "--prompts-per-iteration: -5 is below 1, the least there can be"),
        ("RestIteration --original-share 1.5", "--original-share: 1.5 is not between 0 and 1"),
        ("RestIteration --digits-held-out -3", "--digits-held-out: -3 is below 1, the least there can be"),
        ("Generate --policy p --prompts q --stop END", """--stop: END is not JSON of a list: '["END"]'"""),
    ],
)
def test_what_cannot_be_is_refused_in_our_words(words: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.run(shlex.split(words))
    errors = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error[")]
    assert ended.value.code == 2 and len(errors) == 1
    assert errors[0].startswith("error[2/") and line in errors[0]
