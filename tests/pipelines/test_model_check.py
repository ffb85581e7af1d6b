"""What a model cannot do is found before any stage: numbers of a language model, tokens of a reward model, more ids
than there are, an export of adapters.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from pipelines.graph.model_files import ADAPTERS
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


def adapters(place: str) -> None:
    """A checkpoint that is planned with as one of LoRA adapters."""
    attempt = commit.begin_attempt(place)
    Path(commit.attempt_path(place, attempt), ADAPTERS).write_text("{}")
    files = commit.hash_files(place, attempt)
    commit.publish_folder(place, attempt, Manifest(kind="checkpoint", files=files, op={"name": "train.sft"}))


@pytest.mark.parametrize(("given", "slug", "after"), REFUSED)
def test_it_is_refused_before_any_stage_with_the_command_that_helps(
    given: str, slug: str, after: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr("sys.argv", ["quiver"])
    monkeypatch.setattr("pipelines.runtime.invocation.program", lambda name: name)
    adapters("adapters")
    with pytest.raises(SystemExit) as ended:
        command.run(shlex.split(given))
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and printed.startswith(f"error[2/{slug}]"), printed
    assert "kept: nothing was started" in printed and printed.rstrip().endswith(after), printed
    assert not (place / "quiver-data").exists()
