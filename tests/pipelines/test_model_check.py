"""What a model cannot do is found before any stage: numbers of a language model, tokens of a reward model, more ids
than there are, an export of adapters.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from pipelines.graph.backend import model_at
from pipelines.graph.model_check import has_scalar_head, known_ids
from pipelines.graph.model_files import ADAPTERS
from pipelines.graph.plan import Plan
from pipelines.recipes import Preference, RewardModel
from pipelines.runtime import command
from schemas.manifest import Manifest
from schemas.store import commit

NO_REWARD = "next: quiver RewardModel --model model --data pairs.jsonl --lr 1e-5"
OWN = "--own-model model --own-prompts prompts.jsonl --own-reward model --own-max-new-tokens 8"
REFUSED = [
    ("SteerLm --model model --data rows.jsonl --reward model", "no-reward-model", NO_REWARD),
    ("DecisionTransformer --model model --data rows.jsonl --reward model", "no-reward-model", NO_REWARD),
    ("Evaluate --model model --prompts prompts.jsonl --reward-model model", "no-reward-model", NO_REWARD),
    ("Label --op reward --data rows.jsonl --model model", "no-reward-model", NO_REWARD),
    ("Label --op values --data rows.jsonl --model model", "no-reward-model", NO_REWARD),
    (f"RestIteration --setup own {OWN}", "no-reward-model", NO_REWARD),
    ("Generate --model judge --prompts prompts.jsonl", "no-language-model", "next: quiver show judge"),
    ("Label --op logprobs --data rows.jsonl --model judge", "no-language-model", "next: quiver show judge"),
    ("Sft --model judge --data rows.jsonl", "no-language-model", "next: quiver show judge"),
    ("Distill --model model --teacher model --data rows.jsonl --top-k 10", "bad-setting",
     "next: quiver Distill --model model --teacher model --data rows.jsonl --top-k 9"),
    ("Label --op topk --data rows.jsonl --model model", "bad-setting",
     "next: quiver Label --op topk --data rows.jsonl --model model --params '{\"k\": 9}'"),
    ("ExportModel --model adapters", "adapters-alone", "next: quiver MergeModel --model adapters"),
]  # fmt: skip


def test_what_is_trained_counts_as_it_will_be(place: Path) -> None:
    """A reward model that a recipe will train has a scalar head; it knows the ids of the model that it starts from."""
    pairs = "".join(json.dumps({"prompt": f"{n}", "chosen": "a", "rejected": "q"}) + "\n" for n in range(4))
    (place / "pairs.jsonl").write_text(pairs)
    plan = Plan("data")
    for recipe, scalar in ((RewardModel, True), (Preference, False)):
        results = recipe(model="model", data="pairs.jsonl").results(plan)
        trained = results.checkpoints["model" if scalar else "policy"]
        assert (has_scalar_head(trained), known_ids(trained)) == (scalar, 9)
        assert (has_scalar_head(results.checkpoints["first"]), known_ids(results.checkpoints["first"])) == (False, 9)
    (place / "some_rewards.py").write_text("def score(response):\n    return [0.0]\n")
    assert has_scalar_head(model_at(plan, "some_rewards:score", "scorer")) is None


def adapters(place: str) -> None:
    """A checkpoint that is planned with as one of LoRA adapters."""
    attempt = commit.begin_attempt(place)
    Path(commit.attempt_path(place, attempt), ADAPTERS).write_text("{}")
    files = commit.hash_files(place, attempt)
    commit.publish_folder(place, attempt, Manifest(kind="checkpoint", files=files, op={"name": "train.sft"}))


@pytest.mark.usefixtures("activated")
@pytest.mark.parametrize(("given", "slug", "after"), REFUSED)
def test_it_is_refused_before_any_stage_with_the_command_that_helps(
    given: str, slug: str, after: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr("sys.argv", ["quiver"])
    monkeypatch.setattr("pipelines.cli.invocation.program", lambda name: name)
    adapters("adapters")
    with pytest.raises(SystemExit) as ended:
        command.run(shlex.split(given))
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and printed.startswith(f"error[2/{slug}]"), printed
    assert "kept: nothing was started" in printed and printed.rstrip().endswith(after), printed
    assert not (place / "quiver-data").exists()
