"""PreferenceOptimization on a handful of pairs: end to end, once, with figures of before and after."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import luigi

from schemas.dataset import Dataset
from schemas.store.commit import read_manifest

NETWORK = {
    "num_layers": 1,
    "hidden_size": 32,
    "ffn_hidden_size": 64,
    "num_attention_heads": 2,
    "num_query_groups": 2,
}
STEADY = {"warmup_steps": 0, "schedule": "constant"}
SMALL = {
    "preferences-title": "toy",
    "preferences-files": ["pairs.jsonl"],
    "preferences-vocabulary": 300,
    "preferences-held-out": 0.25,
    "preferences-learn": "both",
    "preferences-architecture": {
        "num_layers": 1,
        "hidden_size": 32,
        "ffn_hidden_size": 64,
        "num_attention_heads": 2,
        "num_query_groups": 2,
    },
    "preferences-base": {"max_steps": 4, "global_batch_size": 16, "optim": {"lr": 1e-3, **STEADY}},
    "learning": {"max_steps": 12, "global_batch_size": 16, "optim": {"lr": 3e-3, **STEADY}},
}
TEXTS = {name: value if isinstance(value, str) else json.dumps(value) for name, value in SMALL.items()}
COMMAND = [text for name, value in TEXTS.items() for text in (f"--{name}", value)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("preference")
    rows = [
        {"prompt": f"Say {n}.", "chosen": f"Gladly: it is {n}, please.", "rejected": f"No, go away with {n}."}
        for n in range(80)
    ]
    (place / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = luigi(place, "PreferenceOptimization", *COMMAND, module="pipelines", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    (place / "out.txt").write_text(done.stdout)
    return place


def test_the_policy_learns_to_prefer_what_was_chosen(folder: Path) -> None:
    [evaluation] = (folder / "quiver-data/dpo/toy").glob("evaluation-*")
    figures = {row["metric"]: row["value"] for row in Dataset.open(str(evaluation)).read().to_pylist()}
    assert figures["before.count"] > 10
    assert figures["accuracy.mean"] == 1.0, "two kinds of answers are easily distinguished"
    assert figures["after.mean"] >= figures["before.mean"]
    margin = figures["reward_chosen.mean"] - figures["reward_rejected.mean"]
    assert figures["reward_margin.mean"] == pytest.approx(margin) and margin > 0
    row = (folder / "out.txt").read_text().split("rewards/rejected")[1].splitlines()[2].split()
    shares = [f"{figures[f'{name}.mean']:.1%}" for name in ("before", "after", "accuracy")]
    rewards = [f"{figures[f'reward_{name}.mean']:.4f}" for name in ("margin", "chosen", "rejected")]
    assert row == [f"{figures['before.count']:.0f}", *shares, *rewards]


def test_the_policy_started_from_its_reference(folder: Path) -> None:
    [policy] = (folder / "quiver-data/dpo/toy").glob("policy-????????")
    manifest = read_manifest(str(policy))
    assert manifest is not None and manifest.op["params"]["settings"] == {"beta": 0.1}
    [read] = (folder / "quiver-data/dpo/toy").glob("pairs-train-????????")
    first = Dataset.open(str(read)).manifest
    assert {parent.name for parent in manifest.parents} >= {"data", "init"}
    assert manifest.op["params"]["max_steps"] == 12
    rows = Dataset.open(str(read)).read(columns=["ref_logprob_chosen", "ref_logprob_rejected"])
    assert all(value < 0 for value in rows["ref_logprob_chosen"].to_pylist()) and first.num_rows > 40


def test_a_second_run_has_nothing_to_do(folder: Path) -> None:
    done = luigi(folder, "PreferenceOptimization", *COMMAND, module="pipelines")
    assert done.returncode == 0 and "nothing to do" in done.stderr + done.stdout


def test_a_setup_without_pairs_is_refused(folder: Path) -> None:
    done = luigi(folder, "PreferenceOptimization", "--setup", "digits", module="pipelines")
    assert done.returncode == 2 and "error[2/no-pairs]" in done.stderr


def test_without_files_the_command_that_names_them_is_reported(folder: Path) -> None:
    done = luigi(folder, "PreferenceOptimization", module="pipelines")
    assert done.returncode == 2 and "error[2/missing-setting]: [preferences] needs files" in done.stderr
    assert """PreferenceOptimization --preferences-files '["pairs.jsonl"]'""" in done.stderr
