"""Weights of turns, in datasets that no import has checked: a mask follows 0 and 1, what else there is has a name."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datakit.apply import apply
from datakit.op import LabelResult
from datakit.sql import Query
from datakit.template import Chat, RewardPrompt
from datakit.templating.weights import weight_faults
from schemas import MESSAGES, Column, Schema
from schemas.dataset import Dataset
from schemas.errors import DataError
from tests.datakit.fakes import tokenizer
from tests.datakit.template.test_chat import MARKED, QWEN3_LIKE, context, trained

ROWS = Schema("conversations", 1, (Column("id", pa.string(), ""), Column("messages", MESSAGES, "")), key=("id",))
ANSWERS = {"whole": 1.0, "silent": 0.0, "unsaid": None, "half": 0.5, "double": 2.0, "below": -1.0, "none": float("nan")}


def chat(answer: float | None, question: float | None = None, last: float | None = None) -> list[dict[str, Any]]:
    turns = [("user", "q", question), ("assistant", "a", answer), ("user", "r", None), ("assistant", "b", last)]
    return [{"role": role, "content": content, "weight": weight} for role, content, weight in turns]


def reasons(op: Chat, *rows: list[dict[str, Any]]) -> list[str]:
    done = op.label(pa.table({"messages": pa.array(list(rows), MESSAGES)}), context())
    return done.kept.reason.to_pylist() if isinstance(done, LabelResult) else [""] * len(rows)


@pytest.mark.parametrize("template", ["plain", "chatml", MARKED, QWEN3_LIKE], ids=lambda text: text[:12])
def test_weights_that_are_no_mask_are_refused_with_their_rows_counted(template: str, tmp_path: Path) -> None:
    rows = {"id": list(ANSWERS), "messages": pa.array([chat(weight) for weight in ANSWERS.values()], MESSAGES)}
    given = Dataset.from_arrow(pa.table(rows), ROWS, str(tmp_path / "given"))
    through = apply(
        Query(tables=("rows",), query="SELECT * FROM rows", kind="conversations"), [given], str(tmp_path / "sql")
    )
    with pytest.raises(DataError, match=r"fractional-weight.*rejected 4 of the first 7 rows"):
        apply(Chat(template=template), [given], str(tmp_path / "refused"), resources=tokenizer())
    for number, source in enumerate((given, through)):
        made = apply(
            Chat(template=template), [source], str(tmp_path / str(number)), resources=tokenizer(), max_rejected=4
        )
        learnt = {row["id"]: trained(row["pieces"]).count("⟦") for row in made.read().to_pylist()}
        assert learnt == {"whole": 2, "silent": 1, "unsaid": 2}
        assert sum(file.rows for file in made.manifest.rejected) == 4
        rejected = pa.concat_tables(
            pq.ParquetFile(Path(made.url) / file.path).read() for file in made.manifest.rejected
        )
        assert Counter(rejected["reason"].to_pylist()) == {"fractional-weight": 4}
        assert sorted(rejected["id"].to_pylist()) == ["below", "double", "half", "none"]


def test_a_weight_on_another_role_is_refused_and_where_nothing_is_learnt_none_is_looked_at() -> None:
    rows = [chat(None), chat(None, question=1.0), chat(None, question=0.0), chat(None, question=0.5)]
    assert reasons(Chat(template="chatml"), *rows) == ["", "learns-other-role", "", "fractional-weight"]
    assert reasons(Chat(template="chatml", generation=True), *rows) == [""] * 4
    rows = [chat(0.5), chat(None, last=0.5), chat(None, question=1.0)]
    assert reasons(Chat(template="chatml", learn="last"), *rows) == ["", "fractional-weight", ""]


def test_weights_of_a_question_do_not_matter_to_a_reward_model() -> None:
    question = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "weight": 0.5},
        {"role": "user", "content": "r"},
    ]
    rows = pa.table({"messages": pa.array([question], MESSAGES), "response": ["b"]})
    done = RewardPrompt(template="plain").label(rows, context())
    assert not isinstance(done, LabelResult)
    assert trained(done["reward_pieces"].to_pylist()[0]).endswith("<|user|>r</s><|assistant|>⟦b</s>⟧")


def test_no_turns_and_nulls() -> None:
    rows = pa.array([[], None, chat(0.5), [], chat(1.0), None], MESSAGES)
    for last, expected in ((False, [False, False, True, False, False, False]), (True, [False] * 6)):
        [(fault, _, flagged), (_, _, other)] = weight_faults(rows, last)
        assert (fault, flagged.tolist(), other.any()) == ("fractional-weight", expected, False)
