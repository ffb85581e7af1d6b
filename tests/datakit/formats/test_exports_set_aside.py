"""What an export sets aside: system turns inside a conversation, and numbers that JSON cannot write."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.formats.exports import EXPORTS
from datakit.formats.exports.export import TYPES
from datakit.formats.exports.write import export

NEMO = [name for name in EXPORTS if name.startswith("nemo_aligner.")]
USER, ANSWER, SYSTEM = ({"role": role, "content": role} for role in ("user", "assistant", "system"))


def rows(**columns: list[Any]) -> pa.Table:
    return pa.table({name: pa.array(values, TYPES.get(name)) for name, values in columns.items()})


def lines_in(path: str) -> list[Any]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.mark.parametrize("name", NEMO)
def test_a_system_turn_inside_is_set_aside(name: str, put: Any, tmp_path: Path) -> None:
    turns = [[SYSTEM, USER], [USER, SYSTEM, USER], [USER, ANSWER, USER], [SYSTEM, SYSTEM, USER]]
    texts = {column: ["x"] * 4 for column in ("response", "chosen", "rejected")}
    table = rows(messages=turns, **texts, desirable=[True] * 4, attributes=[[1.0]] * 4)
    if name.endswith(".sft"):
        table = table.set_column(0, "messages", pa.array([[USER], turns[1], [USER], turns[3]], TYPES["messages"]))
    written = export(put(table), name, str(tmp_path / "out"), max_rejected=2)
    assert written.rejected == {"system-turn-inside": 2} and written.rows == 2


def test_the_turns_beside_a_system_turn_that_is_set_aside_are_as_they_were(put: Any, tmp_path: Path) -> None:
    table = rows(messages=[[USER, SYSTEM, ANSWER], [SYSTEM, USER, ANSWER], [USER, ANSWER]], chat_id=["a", "b", "c"])
    written = export(put(table), "nemo_aligner.chat_sft", str(tmp_path / "out"), max_rejected=1)
    turns = [{"from": name, "value": name.lower(), "label": None} for name in ("User", "Assistant")]
    assert [(line["system"], line["conversations"]) for line in lines_in(written.path)] == [
        ("system", turns),
        ("", turns),
    ]


def test_an_attribute_that_is_nan_is_not_judged_and_an_infinite_one_is_set_aside(put: Any, tmp_path: Path) -> None:
    given = [[1.0, math.nan], [None, -100.0], [math.inf, 2.0]]
    table = rows(messages=[[USER]] * 3, response=["x"] * 3, attributes=given)
    written = export(put(table), "nemo_aligner.regression", str(tmp_path / "out"), max_rejected=1)
    assert [line["label"] for line in lines_in(written.path)] == [[1.0, -100.0], [-100.0, -100.0]]
    assert written.rejected == {"not-finite": 1}


@pytest.mark.parametrize("name", ["trl.preference", "nemo_aligner.dpo", "nemo_aligner.dpo_text"])
def test_a_reward_that_json_cannot_write_is_set_aside(name: str, put: Any, tmp_path: Path) -> None:
    rewards = [math.nan, 0.5, None, -math.inf]
    table = rows(messages=[[USER]] * 4, chosen=["x"] * 4, rejected=["y"] * 4, chosen_reward=rewards)
    written = export(put(table), name, str(tmp_path / "out"), max_rejected=2)
    assert written.rows == 2 and written.rejected == {"not-finite": 2}
    assert [row["row"] for row in lines_in(f"{written.path}.rejected.jsonl")] == [0, 3]


def test_a_kept_number_and_a_weight_that_json_cannot_write_are_set_aside(put: Any, tmp_path: Path) -> None:
    turns = [[USER, ANSWER], [USER, {**ANSWER, "weight": math.nan}], [USER, ANSWER]]
    table = rows(messages=turns, chat_id=["a", "b", "c"], extra=[1.0, 2.0, math.inf])
    written = export(put(table), "trl", str(tmp_path / "out"), keep=["extra"], max_rejected=2)
    assert [line["extra"] for line in lines_in(written.path)] == [1.0] and written.rejected == {"not-finite": 2}
