"""Outside Parquet files: renamed columns, made ids, and damage of every kind, which is an error and never a
crash."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datakit.apply import apply
from datakit.io import Arrow, Csv, Jsonl, Parquet
from datakit.op import Context
from schemas import PREFERENCES, PROMPTS
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import Example

EXAMPLES = [Example(Parquet(files=(str(Path(__file__).with_name("prompts.parquet")),), kind="prompts"))]


def load(op: Parquet) -> tuple[list[dict], list[dict]]:
    results = list(op.read(Context()))
    rejected = [row for result in results if result.rejected is not None for row in result.rejected.to_pylist()]
    return pa.concat_tables([result.rows for result in results]).to_pylist(), rejected


def test_a_format_with_renamed_columns_gives_the_rows_that_jsonl_gives(tmp_path: Path) -> None:
    pq.write_table(pa.table({"q": ["a", "b"], "r": pa.array(["x", "y"], pa.large_string())}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text('{"q": "a", "r": "x"}\n{"q": "b", "r": "y"}\n')
    settings = {"format": "completions", "columns": {"prompt": "q", "response": "r"}, "source": "s"}
    rows, rejected = load(Parquet(files=(str(tmp_path / "a.parquet"),), **settings))
    plain = next(iter(Jsonl(files=(str(tmp_path / "a.jsonl"),), **settings).read(Context())))
    assert rows == plain.rows.to_pylist()
    assert rejected == []


def test_a_row_kind_gets_the_ids_it_lacks_and_keeps_those_it_has(tmp_path: Path) -> None:
    table = PROMPTS.example(5)
    pq.write_table(table.drop_columns(["prompt_id", "answer"]), tmp_path / "bare.parquet")
    rows, _ = load(Parquet(files=(str(tmp_path / "bare.parquet"),), kind="prompts"))
    assert len({row["prompt_id"] for row in rows}) == 5
    assert [row["answer"] for row in rows] == [None] * 5
    pq.write_table(table, tmp_path / "whole.parquet")
    rows, _ = load(Parquet(files=(str(tmp_path / "whole.parquet"),), kind="prompts"))
    assert rows == table.to_pylist()


@pytest.mark.parametrize(
    "kind", [pa.timestamp("ns"), pa.timestamp("us"), pa.timestamp("us", "Mars/X"), pa.duration("s")], ids=str
)
@pytest.mark.parametrize("op", [Parquet, Arrow])
def test_a_time_that_nobody_reads_stops_no_row_and_one_that_is_read_only_its_own(
    op: type[Parquet], kind: pa.DataType, tmp_path: Path
) -> None:
    times = pa.array([(1 << 60) + 1, 1, 1, 1], pa.int64()).view(kind)
    names = pa.array(["user", "assistant"] * 2)
    inner = pa.StructArray.from_arrays([names, pa.array(list("abcd")), times], ["role", "content", "timestamp"])
    label = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), times.slice(0, 2))
    turns = pa.ListArray.from_arrays(pa.array([0, 2, 4], pa.int32()), inner)
    table = pa.table({"messages": turns, "label": label, "prompt": times.slice(0, 2), "response": ["x", "y"]})
    place = str(tmp_path / "a")
    if op is Parquet:
        pq.write_table(table, place, version="2.6")
    else:
        with pa.ipc.new_file(place, table.schema) as writer:
            writer.write_table(table)
    rows, rejected = load(op(files=(place,), format="messages"))
    assert [[turn["content"] for turn in row["messages"]] for row in rows] == [["a", "b"], ["c", "d"]]
    assert rejected == []
    rows, rejected = load(op(files=(place,), format="completions", ignore=("messages", "label")))
    assert rows == [] and [row["reason"] for row in rejected] == ["wrong-type"] * 2


@pytest.mark.parametrize("kind", ["parquet", "arrow", "csv", "jsonl"])
def test_a_nul_is_bad_text_in_every_file(kind: str, tmp_path: Path) -> None:
    table = pa.table({"prompt": ["a", "b\0", "c", "d"], "response": ["x", "y", "\0z", "w"], "note": ["", "", "", "\0"]})
    place = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(table, place)
    elif kind == "arrow":
        with pa.ipc.new_file(place, table.schema) as writer:
            writer.write_table(table)
    elif kind == "csv":
        place.write_text(
            "\n".join(",".join(row) for row in [table.column_names, *zip(*table.to_pydict().values(), strict=True)])
        )
    else:
        place.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    op = {"parquet": Parquet, "arrow": Arrow, "csv": Csv, "jsonl": Jsonl}[kind](
        files=(str(place),), format="completions"
    )
    rows, rejected = load(op)
    assert [row["response"] for row in rows] == ["x", "w"]
    assert [(row["line"], row["reason"]) for row in rejected] == [(2, "bad-text"), (3, "bad-text")]


def test_a_nul_inside_of_a_row_kinds_messages_is_bad_text(tmp_path: Path) -> None:
    table = PREFERENCES.example(3)
    turns = table["messages"].to_pylist()
    turns[1][0]["content"] += "\0"
    table = table.set_column(table.column_names.index("messages"), "messages", pa.array(turns, table["messages"].type))
    pq.write_table(table, tmp_path / "a.parquet")
    rows, rejected = load(Parquet(files=(str(tmp_path / "a.parquet"),), kind="preferences"))
    assert len(rows) == 2 and [(row["line"], row["reason"]) for row in rejected] == [(2, "bad-text")]


def test_bad_rows_are_rejected_with_their_place(tmp_path: Path) -> None:
    table = pa.table(
        {"input": ["a", None, "c", "d", " "], "output": list("vwxyz"), "reward": [1, 2, float("nan"), 4, 5]}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    rows, rejected = load(Parquet(files=(str(tmp_path / "a.parquet"),), format="rewarded"))
    assert [row["reward"] for row in rows] == [1.0, 4.0]
    reasons = [(row["place"], row["reason"]) for row in rejected]
    assert reasons == [("a.parquet:2", "null"), ("a.parquet:3", "not-finite"), ("a.parquet:5", "blank-prompt")]


def test_invalid_text_inside_a_file_is_an_error(tmp_path: Path) -> None:
    bad = pa.array([b"ok", b"\xff"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": bad}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="not a sound Parquet file"):
        load(Parquet(files=(str(tmp_path / "a.parquet"),), format="prompts"))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"question": ["a"]}), "no column prompt or text or input"),
        (pa.table({"prompt": pa.array([], pa.string())}), "no record"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, table: pa.Table, message: str) -> None:
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        load(Parquet(files=(str(tmp_path / "a.parquet"),), format="prompts"))


def test_damaged_files_are_errors_or_give_the_very_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"prompt": [f"prompt {number}" for number in range(500)]})
    pq.write_table(table, path, write_page_checksum=True, compression="zstd")
    whole = path.read_bytes()
    draw = random.Random(7)
    damaged = [
        whole[: len(whole) // 2],
        whole[:4],
        b"",
        whole[:-4] + b"PARX",
        b"PAR1" + b"\xff" * 64 + b"PAR1",
    ]
    for _ in range(6):
        at = draw.randrange(len(whole))
        damaged.append(whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :])
    failed = 0
    for number, data in enumerate(damaged):
        path.write_bytes(data)
        try:
            rows, _ = load(Parquet(files=(str(path),), format="prompts"))
        except DataError:
            failed += 1
        else:
            assert [row["messages"][0]["content"] for row in rows] == table["prompt"].to_pylist(), number
    assert failed >= 5


def test_through_apply(tmp_path: Path) -> None:
    table = PREFERENCES.example(4)
    pq.write_table(table, tmp_path / "a.parquet")
    done = apply(Parquet(files=(str(tmp_path / "a.parquet"),), kind="preferences"), [], str(tmp_path / "out"))
    assert done.read().to_pylist() == table.to_pylist()


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="format or a kind"):
        Parquet(files=("a",))
    with pytest.raises(ConfigError, match="did you mean prompts"):
        Parquet(files=("a",), kind="promts")
