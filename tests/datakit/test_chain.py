"""Several operations as one: the rows, rejected rows and counts of the same operations one by one, in one dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from datakit.apply import apply
from datakit.filter import Threshold, Where
from datakit.label import Length, Standardize
from datakit.op import Context, FilterDecision, Label, LabelResult, Op
from datakit.run.chain import Chain, PaidChain
from schemas import Column, Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError

ROWS = Schema(
    "answers",
    1,
    (
        Column("sample_id", pa.string(), "a name"),
        Column("prompt_id", pa.string(), "what it answers"),
        Column("response", pa.string(), "the answer"),
        Column("reward", pa.float64(), "a number", finite=True),
    ),
    key=("sample_id",),
)
OPS: tuple[Op, ...] = (
    Length(column="response"),
    Where(predicate="reward > 1"),
    Standardize(output="score"),
    Threshold(column="score", minimum=0.0),
)


@dataclass(frozen=True, kw_only=True)
class Short(Label):
    """Whether a response is short; one that is empty goes, and none may unless the run says so."""

    name: ClassVar[str] = "toy.short"
    max_rejected: ClassVar[int | None] = 0

    @property
    def takes(self) -> Schema:
        return ROWS.selecting("response")

    @property
    def adds(self) -> tuple[Column, ...]:
        return (Column("short", pa.bool_(), "below three letters"),)

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        length = pc.utf8_length(rows["response"]).combine_chunks()
        added: Mapping[str, Any] = {"short": pc.less(length, 3)}
        return LabelResult(added, FilterDecision(pc.greater(length, 0), "empty"))


def answers(folder: Path, *empty: int) -> Dataset:
    """Twelve answers to four prompts."""
    texts = ["" if n in empty else "x" * (1 + n % 5) for n in range(12)]
    columns = {
        "sample_id": [f"s{n}" for n in range(12)],
        "prompt_id": [f"p{n // 3}" for n in range(12)],
        "response": texts,
        "reward": [float(n * 7 % 11) for n in range(12)],
    }
    return Dataset.from_arrow(pa.table(columns, schema=ROWS.arrow), ROWS, str(folder / "answers"))


def test_a_chain_makes_what_its_operations_make_one_by_one(tmp_path: Path) -> None:
    given = answers(tmp_path)
    chained, one, dropped = apply(Chain(ops=OPS), given, str(tmp_path / "chained")), given, []
    for number, op in enumerate(OPS):
        one = apply(op, one, str(tmp_path / f"{number}"))
        gone = one.read_rejected()
        dropped += [] if gone is None else gone.select(["sample_id", "reason"]).to_pylist()
    assert chained.read() == one.read() and 0 < chained.num_rows < given.num_rows and chained.schema == one.schema
    rejected = chained.read_rejected()
    assert rejected is not None and rejected.select(["sample_id", "reason"]).to_pylist() == dropped
    assert len(dropped) + chained.num_rows == given.num_rows
    assert [op["name"] for op in chained.manifest.op["params"]["ops"]] == [op.name for op in OPS]


def test_a_chunk_of_a_paid_chain_is_one_of_its_operations_too(tmp_path: Path) -> None:
    given = answers(tmp_path)
    ops: tuple[Op, ...] = (Length(column="response"), Short())
    paid = apply(PaidChain(ops=ops, rows_per_chunk=5), given, str(tmp_path / "paid"))
    assert paid.read() == apply(Chain(ops=ops), given, str(tmp_path / "whole")).read()
    assert Chain(ops=ops).to_json() != Chain(ops=ops[::-1]).to_json()


@pytest.mark.parametrize("kind", [Chain, PaidChain])
def test_each_operation_has_its_own_limit_of_rejected_rows(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"toy\.short rejected 2 of the first 12 rows: s3, s8"):
        apply(kind(ops=(Length(column="response"), Short())), answers(tmp_path, 3, 8), str(tmp_path / "out"))


@pytest.mark.parametrize("kind", [Chain, PaidChain])
def test_a_share_of_rejected_rows_may_be_allowed(kind: Any, tmp_path: Path) -> None:
    """Of the rows before each operation; how a chain is run, and no part of what it is."""
    ops = (Length(column="response"), Short())
    allowed = kind(ops=ops, max_rejected_share=0.17)
    made = apply(allowed, answers(tmp_path, 3, 8), str(tmp_path / "out"))
    assert made.num_rows == 10 and allowed.to_json() == kind(ops=ops).to_json()
    with pytest.raises(DataError, match="rejected 3 of the first 12 rows"):
        apply(allowed, answers(tmp_path / "more", 3, 8, 9), str(tmp_path / "none"))


def test_a_column_that_no_operation_makes_is_missed_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names columns that are not there: score"):
        apply(
            Chain(ops=(Length(column="response"), Threshold(column="score", minimum=0.0))),
            answers(tmp_path),
            str(tmp_path / "out"),
        )
    assert not (tmp_path / "out").exists()
