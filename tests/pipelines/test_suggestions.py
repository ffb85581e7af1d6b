"""What a run says to go on with is executed as it is printed, for every setup; and how a command is written."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest
from commands import LUIGI, REST, environment, luigi

from pipelines.cli import invocation
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.recipes import RestIteration
from pipelines.report import suggestions
from schemas import PROMPTS
from schemas.dataset import Attempt, Dataset
from schemas.manifest import MANIFEST
from schemas.process import terminal
from schemas.store.commit import read_manifest
from tests import pages

_NETWORK = {"num_layers": 1, "hidden_size": 16, "ffn_hidden_size": 16, "num_attention_heads": 2, "num_query_groups": 2}
_LEARNING = json.dumps({"max_steps": 2, "global_batch_size": 4, "optim": {"lr": 1e-3, "warmup_steps": 0}})
_FEW = ("--prompts-per-iteration", "4", "--samples-per-prompt", "2", "--thresholds", "[0.5]")
_PREFERENCES = (
    *("RestIteration", "--setup", "preferences", *_FEW, "--experiment", "a+b"),
    *("--preferences-files", '["pairs.jsonl"]', "--preferences-vocabulary", "300", "--preferences-held-out", "0.5"),
    *("--preferences-max-length", "64", "--preferences-max-new-tokens", "4", "--quiver-root", "here and there"),
    *("--preferences-model", json.dumps(_NETWORK), "--preferences-base", _LEARNING, "--preferences-reward", _LEARNING),
    *("--preferences-improve", _LEARNING, "--stop", '["$x", "a\'b"]'),
)
_OWN = ("RestIteration", "--setup", "own", *_FEW, "--own-prompts", "prompts.jsonl", "--own-held-out", "0.5")
_OWN += ("--own-reward", "score:length", "--own-max-length", "64", "--own-max-new-tokens", "4", "--template", "text")
_OWN += ("--own-improve", _LEARNING)


def suggested(stdout: str) -> list[str]:
    """The commands under `go on with`, as a shell would be handed them."""
    lines = stdout.split("go on with\n")[1].replace(" \\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip()]


def shell(folder: Path, text: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", text],
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def run_all(folder: Path, *command: str, count: int = 3) -> list[str]:
    """What the command suggests, after every suggestion was executed in an environment that is not active."""
    inactive = {"PATH": "/usr/bin:/bin"}
    done = luigi(folder, *command, module="pipelines", COLUMNS="80", **inactive)
    assert done.returncode == 0, done.stderr
    commands = suggested(done.stdout)
    ours = [text for text in commands if not text.startswith("echo ")]
    assert len(commands) == count and all(str(LUIGI.parent) in text for text in ours), done.stdout
    for text in commands:
        again = shell(folder, text, **inactive)
        assert again.returncode == 0, text + again.stderr
        assert "0 stages to do" not in again.stderr
    return commands


def pairs(folder: Path) -> None:
    rows = [{"prompt": f"Say {n}.", "chosen": f"It is {n}.", "rejected": f"No {n}."} for n in range(40)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def base_policy(folder: Path) -> str:
    """A tiny checkpoint, prompts and a reward function in `folder`."""
    rows = [{"prompt": f"Say {n}.", "response": f"It is {n}.", "reward": 1.0} for n in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"Say {n}."}) + "\n" for n in range(40)))
    (folder / "score.py").write_text(
        "def length(response):\n    return [float(sum(map(ord, text))) for text in response]\n"
    )
    assert luigi(folder, "Base").returncode == 0
    [policy] = (folder / "quiver-data/base").glob("policy-????????")
    return str(policy.relative_to(folder))


@pytest.mark.slow
def test_suggestions_on_digits_run_as_they_are_printed(tmp_path: Path) -> None:
    commands = run_all(tmp_path, *REST, "--digits-prompts", "300")
    words = shlex.split(commands[1])
    assert words[words.index("--iteration") + 1] == "2"
    assert set(REST) <= set(words), "every flag that was given stands there again"
    assert list((tmp_path / "quiver-data/rest/digits/iter=2").glob("evaluation-*"))


@pytest.mark.slow
def test_suggestions_on_preference_files_run_as_they_are_printed(tmp_path: Path) -> None:
    pairs(tmp_path)
    commands = run_all(tmp_path, *_PREFERENCES)
    assert set(_PREFERENCES) <= set(shlex.split(commands[1]))
    [generated] = (tmp_path / "here and there/generate").glob("held-out-????????-????????")
    manifest = read_manifest(str(generated))
    assert manifest is not None and manifest.op["params"]["sampling"]["stop"] == ["$x", "a'b"]


@pytest.mark.slow
def test_suggestions_on_ones_own_model_run_as_they_are_printed(tmp_path: Path) -> None:
    commands = run_all(tmp_path, *_OWN, "--own-policy", base_policy(tmp_path))
    assert all("--template text" in text for text in commands[1:])


@pytest.mark.slow
def test_suggestions_of_an_online_run_run_as_they_are_printed(tmp_path: Path) -> None:
    """Where rewards are, and what the policy can be used for; in lines that fit."""
    given = ("Grpo", "--setup", "own", "--own-prompts", "prompts.jsonl", "--own-reward", "score:length", "--own-policy")
    given += (base_policy(tmp_path), "--own-held-out", "0.5", "--own-max-length", "64", "--own-max-new-tokens", "4")
    commands = run_all(tmp_path, *given, "--template", "text", "--set", "max_steps=2", "--samples-per-prompt", "2")
    assert "/rollouts" in commands[0] and "Generate" in commands[1] and "ExportModel" in commands[2]


ONE_SHOT = {
    "Sft": ("rows.jsonl", "policy", ["Generate", "ExportModel"]),
    "Distill": ("rows.jsonl", "student", ["Generate", "ExportModel"]),
    "Preference": ("pairs.jsonl", "policy", ["Generate", "ExportModel"]),
    "RewardModel": ("pairs.jsonl", "model.measured", ["Label", "ExportModel"]),
    "SteerLm": ("rows.jsonl", "policy", ["Filter", "Generate", "ExportModel"]),
    "DecisionTransformer": ("rows.jsonl", "policy", ["Filter", "Generate", "ExportModel"]),
}
_MORE = {
    "Distill": ("--teacher", "my-model"),
    "SteerLm": ("--reward", "own_judges:brevity", "--attributes", '["brevity"]', "--levels", "[0, 3]"),
    "DecisionTransformer": ("--reward", "own_judges:length"),
}


def furnished(folder: Path) -> None:
    """A model without a chat template, judges, rows and pairs."""
    pages.model(folder / "my-model")
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        (folder / "my-model" / name).unlink(missing_ok=True)
    judges = (
        "def brevity(response):\n    return {'brevity': [float(len(text) % 5) for text in response]}\n"
        "def length(response):\n    return [float(len(text)) for text in response]\n"
    )
    (folder / "own_judges.py").write_text(judges)
    rows = [{"prompt": f"Say {n}.", "response": f"It is {n}."} for n in range(12)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs(folder)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ONE_SHOT)
def test_what_uses_the_result_of_one_training_runs_as_it_is_printed(recipe: str, tmp_path: Path) -> None:
    """Also where the template was named for the training alone: what was trained remembers it."""
    furnished(tmp_path)
    data, made, expected = ONE_SHOT[recipe]
    given = (recipe, "--model", "my-model", "--data", data, "--template", "text", *_MORE.get(recipe, ()))
    lengths = ("--max-new-tokens", "4") if "Filter" in expected else ()
    limits = ("--max-length", "64", "--batch-size", "4", "--set", "max_steps=2", "--eval-share", "0.2")
    commands = run_all(tmp_path, *given, *lengths, *limits, count=len(expected))
    words = [shlex.split(text) for text in commands]
    assert [next(word for word in one if word in expected) for one in words] == expected
    title = {"RewardModel": "reward-model", "DecisionTransformer": "decision-transformer"}.get(recipe, recipe.lower())
    [trained] = (tmp_path / "quiver-data" / title / data.removesuffix(".jsonl")).glob(f"{made}-????????")
    assert all(str(trained.relative_to(tmp_path)) in one for one in words if "Filter" not in one)
    if recipe == "RewardModel":
        standardised_by_hand(trained.parent, tmp_path)


def standardised_by_hand(results: Path, folder: Path) -> None:
    """What the command gave, against numpy over the rewards as they were measured; the export carries both figures."""
    places = [path.parent for path in (folder / "quiver-data").rglob(MANIFEST)]
    made = {place: manifest for place in places if (manifest := read_manifest(str(place))) is not None}
    [raw] = results.glob("held-out.rewards-????????")
    rewards = Dataset.open(str(raw)).read(columns=["reward"])["reward"].to_numpy()
    mean, std = rewards.mean(), rewards.std(ddof=1)
    [export] = [one for one, manifest in made.items() if manifest.kind == "export"]
    carried = json.loads((export / "config.json").read_text())["reward_scale"]["reward"]
    assert carried == {"mean": pytest.approx(mean), "std": pytest.approx(std), "count": len(rewards)} and std > 0
    assert "## Rewards of held-out answers" in (export / "README.md").read_text()
    [given] = [one for one, manifest in made.items() if "standardize" in manifest.op.get("params", {})]
    scaled = Dataset.open(str(given)).read(columns=["reward"])["reward"].to_numpy()
    assert sorted(scaled) == pytest.approx(sorted((rewards - mean) / std), abs=1e-5)


@pytest.mark.slow
def test_a_policy_that_learnt_adapters_and_judges_nothing_is_asked_and_merged(tmp_path: Path) -> None:
    """Whole conversations, all learnt from: a question is written first."""
    pages.model(tmp_path / "my-model")
    turns = [{"role": "user", "content": "Say 1."}, {"role": "assistant", "content": "1"}]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    lora = ("--set", "lora.rank=2", "--set", "lora.alpha=4", "--set", "max_steps=1")
    commands = run_all(tmp_path, "Sft", "--model", "my-model", "--data", "chats.jsonl", "--eval-share", "0", *lora)
    assert "question.jsonl" in commands[0] and "question.jsonl" in commands[1] and "MergeModel" in commands[2]


def test_a_command_is_repeated_whole_with_one_parameter_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invocation, "_given", ["RestIteration", "--iteration=3", "--thresholds", "[0.1, 0.2]"])
    monkeypatch.setenv("PATH", str(LUIGI.parent))
    assert invocation.again(iteration=4) == (
        ["luigi", "--module", "pipelines", "RestIteration", "--thresholds", "[0.1, 0.2]", "--iteration", "4"]
    )
    invocation.given(["--module", "toy", "Toy", "--iteration", "2", "--rows", "5"])
    assert invocation.again(iteration=3) == ["luigi", "--module", "toy", "Toy", "--rows", "5", "--iteration", "3"]
    assert invocation.runnable("--rows 6") == "luigi --module toy Toy --iteration 2 --rows 6"
    assert invocation.runnable("remove it") == "remove it"
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    expected = min(str(LUIGI), os.path.relpath(LUIGI), key=len)
    assert invocation.runnable("luigi --help") == f"{expected} --help"


def test_a_long_command_is_folded_at_flags_and_read_back_by_a_shell() -> None:
    words = ["luigi", "--module", "pipelines", "RestIteration", "--stop", '["a b", "$HOME"]', "--thresholds", "[1, 2]"]
    text = terminal.folded([shlex.quote(word) for word in (*words, "--samples-per-prompt", "4")], 50)
    assert all(len(line) <= 50 for line in text.splitlines()) and len(text.splitlines()) == 3
    read = subprocess.run(["sh", "-c", f"printf '%s\\n' {text}"], capture_output=True, text=True, check=True).stdout
    assert read.splitlines() == [*words, "--samples-per-prompt", "4"]


def stand_in(node: Node) -> None:
    """Rows at the place of `node`, so that what reads it is suggested."""
    attempt = Attempt.begin(node.url, PROMPTS)
    with attempt.shard(0) as writer:
        writer.write(PROMPTS.conform(PROMPTS.example(2)))
        attempt.commit([writer.finish()])


@pytest.mark.parametrize("columns", [40, 60, 72, 80, 96])
def test_printed_commands_are_folded_between_words_and_never_inside_quotes(
    columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    template = "{{ first }} of\n    {{ several }} lines"
    given = ["RestIteration", "--template", template, "--quiver-root", "here and  there"]
    monkeypatch.setattr(invocation, "_given", given)
    made = RestIteration(template=template, prompts_per_iteration=4, thresholds=[0.5]).results(Plan("here and  there"))
    [step] = made.steps
    for node in (step.rewards, made.task_setup.eval_setup.held_out):
        assert node is not None
        stand_in(node)

    def words(text: str) -> str:
        return subprocess.run(["sh", "-c", f"printf '%s\\0' {text}"], capture_output=True, text=True, check=True).stdout

    whole = list(suggestions.suggestions(made.task_setup, step, 4))
    monkeypatch.setenv("COLUMNS", str(columns))
    narrow = list(suggestions.suggestions(made.task_setup, step, 4))
    assert len(narrow) == 3 and all("\\\n" in text for text in narrow[1:]) and not any("\\\n" in text for text in whole)
    assert [words(text) for text in narrow] == [words(text) for text in whole]
    assert f"here and  there/{step.rewards.label}-" in words(narrow[0]) and template in words(narrow[1])
    printed = suggestions.section(made.task_setup, step, 4, "")
    assert all(f"\n  {text}" in printed for text in narrow), "printed as they are"
