"""Constitutional AI end to end: what a judge with a known mind prefers comes back in the pairs, every dialogue stays
whole in columns, what fails is beside it with its reason, and wrong files are refused before anything runs.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path

import pytest
from commands import digests, luigi

from datakit.constitution.principles import read_constitution
from pipelines.commands.constitutional import Constitutional
from pipelines.graph.plan import Plan
from pipelines.recipes import RlCai, SlCai
from schemas.dataset import Dataset
from tests import pages
from tests.model_server import ModelServer, Raw, http
from tests.pipelines import small_model

JUDGE = '''
import hashlib, re

def lot(text):
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64

def worth(text, principle):
    """Of one principle the answer with more different characters is better, of the other the one with fewer."""
    return len(set(text)) * (1 if "more" in principle else -1)

def planted(conversations):
    """Takes what stands first in three of ten replies, and the worse answer in one of twenty."""
    replies = []
    for turns in conversations:
        text = turns[-1]["content"]
        one, other = re.findall(r"<<<answer [AB] (\\w+)>>>\\n(.*?)\\n<<<end \\1>>>", text, re.DOTALL)
        principle = re.search(r"The principle: (.*)", text)[1]
        better = worth(one[1], principle) > worth(other[1], principle)
        better = better if lot("noise" + text) >= 0.05 else not better
        replies.append("[[A]]" if better or lot("bias" + text) < 0.3 else "[[B]]")
    return replies
'''
TWO = {name: {"choice": f"Choose the answer with {name} characters."} for name in ("more", "fewer")}
FILES = {"model": "model", "data": "prompts.jsonl", "helpful": "helpful.jsonl"}
SMALL = ("--lr", "1e-3", "--batch-size", "8", "--max-new-tokens", "24", "--set", "max_steps=2")


def opened(folder: Path, name: str) -> Dataset:
    [place] = folder.glob(f"quiver-data/{name}-????????")
    return Dataset.open(str(place))


def prompts(folder: Path, count: int) -> None:
    (folder / "prompts.jsonl").write_text("".join(f'{{"prompt": "Say {number}."}}\n' for number in range(count)))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_planted_preferences_come_back_in_the_pairs(tmp_path: Path) -> None:
    pages.model(tmp_path / "model")
    prompts(tmp_path, 120)
    (tmp_path / "minds.py").write_text(JUDGE)
    (tmp_path / "two.json").write_text(json.dumps(TWO))
    (tmp_path / "helpful.jsonl").write_text('{"prompt": "2 + 3?", "chosen": "5", "rejected": "6"}\n')
    command = ("RlCai", "--model", "model", "--data", "prompts.jsonl", "--judge", "minds:planted", *SMALL)
    command += ("--constitution", "two.json", "--temperatures", "[0.7, 1.0, 1.3]", "--max-pairs", "3", "--top-k", "0")
    command += ("--helpful", "helpful.jsonl", "--eval-share", "0.1")
    done = luigi(tmp_path, *command, module="pipelines", timeout=900)
    assert done.returncode == 0, done.stderr
    below = "rl-cai/prompts/train"
    verdicts, pairs = opened(tmp_path, f"{below}/verdicts"), opened(tmp_path, f"{below}/pairs")
    rows = pairs.read().to_pylist()
    spec = importlib.util.spec_from_file_location("minds", tmp_path / "minds.py")
    assert spec is not None and spec.loader is not None
    minds = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(minds)  # the same mind, asked directly
    by = [(row["criterion"], row["chosen"], row["rejected"]) for row in rows]
    gained = [minds.worth(chosen, criterion) - minds.worth(rejected, criterion) for criterion, chosen, rejected in by]
    decided = [gain > 0 for gain in gained if gain]
    assert len(decided) > 80 and sum(decided) / len(decided) >= 0.95
    one_mind = [
        gain > 0 if row["principle"] == "more" else gain < 0 for gain, row in zip(gained, rows, strict=True) if gain
    ]
    assert 0.35 < sum(one_mind) / len(one_mind) < 0.65, "a judge of one principle alone would be right in half"
    assert pairs.num_rows + sum(file.rows for file in pairs.rejected) == verdicts.num_rows
    reasons = {*pairs.read_rejected()["reason"].to_pylist()}
    assert reasons == {"tie"} and {*pairs.read()["judge_consistent"].to_pylist()} == {1.0}
    blended = opened(tmp_path, f"{below}.blended").read()
    assert sorted({*blended["source"].to_pylist()}) == ["constitutional", "helpful"]
    assert blended.num_rows == pairs.num_rows + 1
    assert "Grpo --setup own" in done.stdout
    before = digests(tmp_path)
    again = luigi(tmp_path, *command, module="pipelines", timeout=900)
    assert again.returncode == 0 and "nothing to do" in again.stderr and digests(tmp_path) == before


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_rounds_with_nemo_aligners_files_on_prompts_that_invite_harm(tmp_path: Path, shared_data: Path) -> None:
    pages.model(tmp_path / "model", max_position_embeddings=4096)
    cai, rows = shared_data / "nemo-aligner/cai", tmp_path / "rows.jsonl"
    with gzip.open(shared_data / "hh-rlhf/harmless-base.test.jsonl.gz", "rt") as lines:
        rows.write_text("".join(line for _, line in zip(range(24), lines, strict=False)))
    (tmp_path / "helpful.jsonl").write_text('{"prompt": "2 + 3?", "response": "5"}\n')
    constitution = cai / "CritiqueRevisionInstructions.json"
    command = (
        "SlCai",
        "--model",
        "model",
        "--data",
        "rows.jsonl",
        "--rounds",
        "2",
        "--helpful",
        "helpful.jsonl",
        *SMALL,
    )
    command += ("--constitution", str(constitution), "--few-shot", str(cai / "few_shot_samples_example.json"))
    command += ("--temperature", "1", "--max-length", "4096")
    done = luigi(tmp_path, *command, module="pipelines", timeout=900)
    assert done.returncode == 0, done.stderr
    below, texts = "sl-cai/rows/train", {one["name"]: one for one in read_constitution(str(constitution))}
    first, last = (opened(tmp_path, f"{below}/round={number}/revised").read().to_pylist() for number in (1, 2))
    drafts = {row["prompt_id"]: row["response"] for row in opened(tmp_path, f"{below}/responses").read().to_pylist()}
    kept = {row["prompt_id"]: row for row in first}
    assert last and {row["prompt_id"] for row in last} <= {*kept} <= {*drafts}
    for row in (*first, *last):
        own = texts[row["principle"]]
        turns = [(turn["role"], turn["content"]) for turn in row["dialogue"]]
        asked = [(turn["role"], turn["content"]) for turn in row["messages"]]
        assert turns == [
            *asked, ("assistant", row["draft"]), ("user", own["critique"]), ("assistant", row["critique"]),
            ("user", own["revision"]), ("assistant", row["revision"]),
        ]  # fmt: skip
        assert row["revision"] == row["response"] and row["initial_response"] == drafts[row["prompt_id"]]
        assert row["draft"] == (row["initial_response"] if row["round"] == 1 else kept[row["prompt_id"]]["revision"])
    critiques = opened(tmp_path, f"{below}/round=2/critiques").read().to_pylist()
    assert [turn["content"] for turn in critiques[0]["messages"][:3]] == ["prompt", "response", "critique request"]
    assert any(row["principle"] != kept[row["prompt_id"]]["principle"] for row in last)
    blended = opened(tmp_path, f"{below}.blended").read()
    assert blended.num_rows == len(last) + 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_another_model_criticises_and_what_fails_is_set_aside(tmp_path: Path) -> None:
    pages.model(tmp_path / "model")
    prompts(tmp_path, 20)

    def moody(server: ModelServer, body: dict, answer: dict) -> Raw | None:
        turns = [turn["content"] for turn in body["messages"]]
        if len(turns) == 3 and turns[0] == "Say 3.":
            return Raw(http(400, b'{"error": {"message": "not three"}}'))
        answer["choices"][0]["message"]["content"] = " " if len(turns) == 5 and turns[0] == "Say 4." else "Better so."
        return None

    with ModelServer(faults=moody) as server:
        command = ("SlCai", "--model", "model", "--data", "prompts.jsonl", "--critic", server.reference, *SMALL)
        command += ("--temperature", "1")
        done = luigi(tmp_path, *command, "--eval-share", "0", module="pipelines", timeout=900)
    assert done.returncode == 0, done.stderr
    below = "sl-cai/prompts/train/round=1"
    revised = opened(tmp_path, f"{below}/revised")
    blank = _reasons(opened(tmp_path, f"{below}/critiques.asked"))
    failed = {**_reasons(opened(tmp_path, f"{below}/critiques")), **_reasons(revised)}
    planted = {"Say 3.": ("no-answer", "not three"), "Say 4.": ("no-text", "revision")}
    assert len(blank) < 5 and {*blank.values()} <= {("no-text", "draft")}, "a random model may say nothing"
    assert failed == {name: why for name, why in planted.items() if name not in blank}
    rows = revised.read()
    assert rows.num_rows == 20 - len(failed) - len(blank) and {*rows["revision"].to_pylist()} == {"Better so."}
    assert "not three" in done.stdout or "no-answer" in done.stdout


def _reasons(rows: Dataset) -> dict[str, tuple[str, str]]:
    lost = rows.read_rejected().to_pylist()
    return {row["question"][0]["content"]: (row["reason"], row["threshold"].split(": ")[-1]) for row in lost}


@pytest.mark.parametrize(
    ("recipe", "given", "why"),
    [
        ("SlCai", {"constitution": "{"}, "bad-constitution"),
        ("SlCai", {"constitution": '{"a": {"prompt": ["x"]}}'}, "a has no text for the revision"),
        ("SlCai", {"constitution": '{"a": {"prompt": ["x"], "edit": "y"}}'}, "unknown keys edit"),
        ("RlCai", {"constitution": '{"a": {"prompt": ["x"], "edit_request": "y"}}'}, "a has no text for the choice"),
        ("SlCai", {"few-shot": '{"samples": [[{"role": "User", "content": "x"}]]}'}, "does not end with an answer"),
        ("SlCai", {"helpful": '{"prompt": "x"}'}, "wrong-rows"),
        ("SlCai", {"max-new-tokens": 64}, "no-room"),
        ("SlCai", {"critic": "nowhere"}, "is no model"),
        ("RlCai", {"temperatures": "[1]"}, "no two answers"),
        ("RlCai", {"votes": 3}, "log-probabilities are the same"),
        ("RlCai", {"certainty": 1}, "certainty"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(recipe: str, given: dict, why: str, tmp_path: Path) -> None:
    small_model.write(tmp_path / "model")
    prompts(tmp_path, 20)
    flags = ["--model", "model", "--data", "prompts.jsonl"]
    for name, value in given.items():
        if name in ("constitution", "few-shot", "helpful"):
            (tmp_path / f"{name}.json").write_text(value)
            flags += [f"--{name}", f"{name}.json"]
        else:
            flags += [f"--{name}", str(value)]
    done = luigi(tmp_path, recipe, *flags, module="pipelines")
    words = " ".join(done.stderr.split())
    assert done.returncode in (2, 10) and words.startswith("error[") and why in words, done.stderr
    assert "Traceback" not in done.stderr and "kept: nothing was" in words and not (tmp_path / "quiver-data").exists()


@pytest.mark.parametrize("recipe", [SlCai, RlCai])
def test_helpful_rows_are_learnt_beside_and_never_held_out(recipe: type[Constitutional], tmp_path: Path) -> None:
    """What is blended has no key: rows of both may be the same."""
    small_model.write(tmp_path / "model")
    prompts(tmp_path, 20)
    row = {"SlCai": '{"prompt": "x", "response": "y"}', "RlCai": '{"prompt": "x", "chosen": "y", "rejected": "z"}'}
    (tmp_path / "helpful.jsonl").write_text(row[recipe.__name__])
    given = {name: str(tmp_path / file) for name, file in FILES.items()}
    results = recipe(**given).results(Plan(str(tmp_path / "out")))
    above = {name: [node.label for node in results.datasets[name].ancestors()] for name in ("train", "held_out")}
    assert "imported/helpful.helpful" in above["train"] and "imported/helpful.helpful" not in above["held_out"]
