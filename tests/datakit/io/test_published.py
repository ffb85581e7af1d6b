"""Public sets and NeMo-Aligner's distillation rows, row by row, on rows of their published shape made for this test."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datakit.formats.forms import FORMS
from datakit.formats.parse import Parser
from datakit.io import Jsonl
from datakit.op import Context
from schemas.errors import ConfigError
from tests.datakit.fakes import bare
from tests.datakit.formats.test_choices import SHAPES
from tests.datakit.io.test_jsonl import CASES


def load(folder: Path, records: list[Any], form: str, **settings: Any) -> tuple[list[dict[str, Any]], list[str]]:
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    results = list(Jsonl(files=(str(path),), format=form, **settings).read(Context()))
    rejected = [row["reason"] for r in results if r.rejected is not None for row in r.rejected.to_pylist()]
    return [row for result in results for row in result.rows.to_pylist()], rejected


def asked(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in bare(row["messages"])]


DOLLY = [
    {"instruction": f" Do {at}. ", "context": f"\nText {at} " if at % 3 else ["", " \n"][at % 2], "response": f"r{at}",
     "category": "qa"}
    for at in range(60)
]  # fmt: skip


def as_nemo_writes(rows: list[dict[str, str]], seed: int) -> list[str]:
    """The inputs that NeMo's script for Dolly makes of the rows behind `numpy.random.seed(seed)`."""
    made = []
    draw = np.random.RandomState(seed)
    for row in rows:
        context = row["context"].strip()
        if context == "":
            made.append(row["instruction"])
        elif draw.randint(0, 2) == 0:
            made.append(f"{context}\n\n{row['instruction'].strip()}")
        else:
            made.append(f"{row['instruction'].strip()}\n\n{context}")
    return made


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_dolly_in_the_order_of_nemos_script(tmp_path: Path, seed: int) -> None:
    rows, rejected = load(tmp_path, DOLLY, "dolly", seed=seed)
    assert [row["messages"][0]["content"] for row in rows] == as_nemo_writes(DOLLY, seed)
    assert [row["response"] for row in rows] == [row["response"] for row in DOLLY] and rejected == []


def test_dolly_draws_go_on_over_files_and_its_seed_is_part_of_it(tmp_path: Path) -> None:
    files = []
    for at, part in enumerate((DOLLY[:25], DOLLY[25:])):
        (tmp_path / f"{at}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
        files.append(str(tmp_path / f"{at}.jsonl"))
    op = Jsonl(files=tuple(files), format="dolly", seed=3)
    rows = [row for result in op.read(Context()) for row in result.rows.to_pylist()]
    assert [row["messages"][0]["content"] for row in rows] == as_nemo_writes(DOLLY, 3)
    assert op.params()["seed"] == 3
    assert "seed" not in Jsonl(files=tuple(files), format="alpaca").params(), "a format that draws nothing has no seed"
    with pytest.raises(ConfigError):
        list(Jsonl(files=tuple(files), format="dolly", seed=-1).read(Context()))


def test_helpsteer_with_attributes_in_their_order(tmp_path: Path) -> None:
    several = "q1\n<extra_id_1>Assistant\na1\n<extra_id_1>User\nq2"
    records = [
        {
            "prompt": "q", "response": "a",
            "helpfulness": 3, "correctness": 4, "coherence": 2, "complexity": 1, "verbosity": 0,
        },
        {"prompt": several, "response": "b", "verbosity": 4, "helpfulness": 0, "coherence": None},
        {"prompt": "q", "response": "c"},
        {"prompt": "q", "response": " ", "helpfulness": 1},
    ]  # fmt: skip
    rows, rejected = load(tmp_path, records, "helpsteer")
    assert [row["attributes"] for row in rows] == [[3, 4, 2, 1, 0], [0, None, None, None, 4]]
    assert asked(rows[0]) == [("user", "q")] and rows[0]["response"] == "a"
    assert asked(rows[1]) == [("user", "q1"), ("assistant", "a1"), ("user", "q2")]
    assert rejected == ["no-attribute", "blank-response"]


def test_helpsteers_preferences_by_the_sign_of_the_strength(tmp_path: Path) -> None:
    def record(strength: float, **more: Any) -> dict[str, Any]:
        return {"prompt": "q", "response_1": "one", "response_2": "two", "preference_strength": strength, **more}

    third = {
        "context": [{"role": "user", "content": "q"}],
        "response1": "1",
        "response2": "2",
        "overall_preference": -3,
    }
    records = [record(-2), record(1, split="train"), record(0), record(4), {**record(3), "response_2": "one"}, third]
    rows, rejected = load(tmp_path, records, "helpsteer_preferences")
    sides = [(row["chosen"], row["rejected"], row["chosen_reward"], row["rejected_reward"]) for row in rows]
    assert sides == [("one", "two", 2, 0), ("two", "one", 1, 0), ("1", "2", 3, 0)]
    assert rejected == ["no-preference", "strength-out-of-range", "same-answers"]


def test_every_answer_of_ultrafeedback(tmp_path: Path) -> None:
    def completion(text: str, score: float | None) -> dict[str, Any]:
        return {"model": "m", "response": text, "overall_score": score, "annotations": {"honesty": {"Rating": "5"}}}

    records = [
        {"source": "x", "instruction": "q", "models": ["m"], "completions": [completion("a", 8.5), completion("b", 2)]},
        {"instruction": "q", "completions": [completion("c", 3), completion("d", None)]},
        {"instruction": "q", "completions": []},
        {"completions": [completion("c", 3)]},
    ]
    rows, rejected = load(tmp_path, records, "ultrafeedback")
    assert [(asked(r), r["response"], r["reward"], r["sample_index"]) for r in rows] == [
        ([("user", "q")], "a", 8.5, 0), ([("user", "q")], "b", 2.0, 1),
    ]  # fmt: skip
    assert rejected == ["null", "missing-key", "missing-key"]


def test_ultrafeedback_as_pairs(tmp_path: Path) -> None:
    """The binarised set, whose `messages` repeat what is chosen."""
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}]
    record = {
        "prompt": "q", "prompt_id": "x", "chosen": turns, "rejected": [turns[0], {**turns[1], "content": "bad"}],
        "messages": turns, "score_chosen": 8.0, "score_rejected": 3.5,
    }  # fmt: skip
    (row,), rejected = load(tmp_path, [record], "preference_chats")
    assert (row["chosen"], row["rejected"], row["chosen_reward"], row["rejected_reward"]) == ("good", "bad", 8.0, 3.5)
    assert asked(row) == [("user", "q")] and rejected == []


def taught(tokens: list[int], labels: list[int], mask: list[float], tops: int = 2) -> dict[str, Any]:
    """A row as NeMo-Aligner's script writes it: logits less their maximum, of a vocabulary of four."""
    logits = [[0.0, -1.0 - at, -2.0, -5.0] for at in range(len(tokens))]
    return {
        "tokens": tokens, "labels": labels, "loss_mask": mask,
        "topk_logits": [row[:tops] for row in logits], "topk_token_ids": [[3, 1, 2, 0][:tops] for _ in tokens],
        "log_sum_exp_logits": [math.log(sum(map(math.exp, row))) for row in logits], "index": 4,
    }  # fmt: skip


def test_a_teachers_logits_become_logprobs_of_our_shift(tmp_path: Path) -> None:
    """Tokens 5 6 7 8 with end 2, padded to six: the answer 8 2 is learnt; hand-worked log-probabilities."""
    rows, rejected = load(
        tmp_path, [taught([5, 6, 7, 8, 2, 2], [6, 7, 8, 2, 2, 2], [0, 0, 1, 1.0, 0, 0])] * 2, "nemo_kd"
    )
    assert rejected == [] and rows[1]["sample_id"] == f"{rows[0]['sample_id']}-1"
    assert rows[0]["input_ids"] == [5, 6, 7, 8, 2] and rows[0]["loss_mask"] == [0, 0, 0, 1, 1]
    assert rows[0]["teacher_ids"] == [[0, 0], *[[3, 1]] * 4]
    expected = []
    for at in range(4):
        whole = [1.0, math.exp(-1 - at), math.exp(-2), math.exp(-5)]
        expected.append([math.log(whole[0] / sum(whole)), math.log(whole[1] / sum(whole))])
    assert rows[0]["teacher_logprobs"][0] == [0.0, 0.0]
    np.testing.assert_allclose(rows[0]["teacher_logprobs"][1:], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"labels": [6, 9, 8]}, "labels-do-not-follow"), ({"loss_mask": [0, 0, 0]}, "no-trained-token"),
        ({"loss_mask": [0, 1]}, "lengths-differ"), ({"loss_mask": [0, 0.5, 1]}, "fractional-weight"),
        ({"topk_token_ids": [[3], [1, 2], [1, 2]]}, "uneven-top-k"), ({"topk_logits": None}, "null"),
        ({"tokens": [5, None, 7]}, "null-inside"), ({"tokens": [5, -1, 7]}, "negative-id"),
        ({"tokens": "abc"}, "wrong-type"), ({"topk_logits": [[0.0, None]] * 3}, "null-inside"),
    ],
)  # fmt: skip
def test_distillation_rows_that_do_not_fit_are_set_aside(tmp_path: Path, wrong: dict[str, Any], reason: str) -> None:
    good = taught([5, 6, 7], [6, 7, 8], [0, 0, 1])
    rows, rejected = load(tmp_path, [good, {**good, **wrong}], "nemo_kd")
    assert (len(rows), rejected) == (1, [reason])
    _, rejected = load(tmp_path, [{**good, **wrong}, "no object: each line is read for itself"], "nemo_kd")
    assert rejected == [reason, "wrong-type"]


def test_answers_in_texts_with_marks_end_before_the_mark(tmp_path: Path) -> None:
    prompt = "<extra_id_0>System\n\n<extra_id_1>User\nq\n<extra_id_1>Assistant\n"
    judged = {"prompt": prompt, "response": "a\n<extra_id_1>", "preference": "chosen"}
    (row,), _ = load(tmp_path, [judged], "kto", dialogue="extra_id")
    assert row["response"] == "a" and asked(row) == [("user", "q")]
    sample = {"input": prompt, "output": "b\n<extra_id_1>", "reward": 1.0}
    (row,), _ = load(tmp_path, [sample], "rewarded", dialogue="extra_id")
    assert row["response"] == "b"


def test_every_format_has_a_case() -> None:
    here = {"dolly", "helpsteer", "helpsteer_preferences", "marks", "nemo_kd", "ultrafeedback"}
    elsewhere = {"comparisons", "oasst", "nemo_gym", "nemo_gym_rollouts", "vicuna", "ifeval", "code"}
    assert {*CASES, *here, *elsewhere, *(form for form, *_ in SHAPES.values())} == {*FORMS}


@pytest.mark.parametrize("form", sorted(CASES))
def test_plain_lines_are_read_a_block_at_a_time(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And rows are the same where each line is read for itself, which takes about five times as long."""
    records = [CASES[form][0]] * 4
    with monkeypatch.context() as by_line:
        by_line.setattr(Parser, "_at_once", lambda parser, block: None)
        expected = load(tmp_path, records, form)
    monkeypatch.setattr(Parser, "_by_line", None)
    assert load(tmp_path, records, form) == expected
