"""Datasets of an earlier version of a row kind: read as if they had been written today, with the files left alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datakit.apply import apply
from datakit.blend import Unpair
from datakit.formats.ids import content_ids
from datakit.io import Jsonl
from datakit.op import Op
from datakit.sql import Query
from schemas import CHATS, COMPLETIONS, MESSAGES, PREFERENCES, PROMPTS, SAMPLES, TOOLS, Column, Schema
from schemas.dataset import Attempt, Dataset
from schemas.errors import IntegrityError
from schemas.migration import migrated

LINEAGE = ("chosen_sample_id", "rejected_sample_id", "chosen_finish_reason", "rejected_finish_reason")
OLD = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def earlier(schema: Schema) -> Schema:
    columns = (Column("messages", OLD, c.meaning) if c.name == "messages" else c for c in schema.columns)
    return Schema(schema.name, 1, tuple(c for c in columns if c.name not in {"tools", *LINEAGE}), schema.key)


def before_lineage() -> Schema:
    """PREFERENCES as version 2 was."""
    return replace(PREFERENCES.dropping(*LINEAGE), version=2)


def written(folder: Path, schema: Schema, shards: int = 2) -> Dataset:
    with Attempt.begin(str(folder), schema, Schema("rejected", 1, schema.columns), rows_per_group=2) as attempt:
        files = []
        for index in range(shards):
            writer = attempt.shard(index)
            writer.write(schema.example(5))
            files.append(writer.finish())
        gone = attempt.rejected_shard(0)
        gone.write(schema.example(1))
        attempt.commit(files, [gone.finish()])
    return Dataset.open(str(folder))


@pytest.mark.parametrize("schema", [PROMPTS, COMPLETIONS, CHATS, PREFERENCES, SAMPLES], ids=lambda s: s.name)
def test_rows_with_turns_of_two_fields_are_read_with_nulls_in_the_new_ones(tmp_path: Path, schema: Schema) -> None:
    before = written(tmp_path / "old", earlier(schema))
    assert before.schema == schema
    rows = before.read()
    assert rows.schema.equals(schema.arrow)
    old = earlier(schema).example(5).to_pylist() * 2
    assert [row["messages"] for row in rows.to_pylist()] == [
        [turn | dict.fromkeys(("tool_calls", "tool_call_id", "reasoning", "weight")) for turn in row["messages"]]
        for row in old
    ]
    assert rows["tools"].null_count == 10
    parts = [part for shard in (0, 1) for part in before.batches(shard, 3)]
    assert pa.concat_tables(parts).equals(rows)
    assert before.read(["tools", "messages"]).column_names == ["tools", "messages"]
    assert before.read(["tools"]).num_rows == 10
    gone = before.read_rejected()
    assert gone is not None
    assert gone["messages"].type == MESSAGES
    before.check()


def test_preferences_of_version_2_are_read_with_no_samples(tmp_path: Path) -> None:
    before = written(tmp_path / "old", before_lineage())
    assert before.manifest.schema == before_lineage() and before.schema == PREFERENCES
    rows = before.read()
    assert rows.schema.equals(PREFERENCES.arrow) and rows.num_rows == 10
    assert all(rows[name].null_count == 10 for name in LINEAGE)
    assert rows.drop_columns(list(LINEAGE)).to_pylist() == before_lineage().example(5).to_pylist() * 2
    assert pa.concat_tables(part for shard in (0, 1) for part in before.batches(shard, 3)).equals(rows)
    assert before.read(["rejected_sample_id", "chosen"]).column_names == ["rejected_sample_id", "chosen"]
    assert before.sql("SELECT count(chosen), count(chosen_sample_id) FROM self").fetchall() == [(10, 0)]
    before.check()
    widened = written(tmp_path / "wider", before_lineage().adding(Column("more", pa.string(), "")))
    assert widened.schema == replace(PREFERENCES.adding(Column("more", pa.string(), "")), version=3)


def test_rows_that_only_look_like_pairs_are_left_alone() -> None:
    for schema in (
        replace(before_lineage(), version=1),
        before_lineage().renamed("comparisons", version=2),
        before_lineage().dropping("rejected_reward"),
    ):
        assert migrated(schema) is schema


@pytest.mark.parametrize("lost", ["chosen", "source"])
def test_a_file_that_lacks_another_column_is_no_earlier_version(tmp_path: Path, lost: str) -> None:
    before = written(tmp_path / "rows", PREFERENCES, shards=1)
    path = tmp_path / "rows" / before.shards[0].path
    pq.write_table(before.read().drop_columns([lost]), path)
    with pytest.raises(IntegrityError):
        Dataset.open(str(tmp_path / "rows"), verify="off").read()


def test_files_and_digest_of_an_earlier_dataset_stay_what_they_are(tmp_path: Path) -> None:
    before = written(tmp_path / "old", earlier(PROMPTS))
    bytes_before = {path: path.read_bytes() for path in (tmp_path / "old").rglob("*.*")}
    before.read()
    assert {path: path.read_bytes() for path in (tmp_path / "old").rglob("*.*")} == bytes_before
    assert before.manifest.schema is not None
    assert "tools" not in before.manifest.schema


@pytest.mark.parametrize(
    ("kind", "op"),
    [
        (PREFERENCES, Unpair()),
        (PROMPTS, Query(tables=("rows",), query="SELECT prompt_id, messages[1].weight AS weight, tools FROM rows")),
    ],
    ids=["blend.unpair", "sql.query"],
)
def test_operations_take_an_earlier_dataset(tmp_path: Path, kind: Schema, op: Op) -> None:
    before = written(tmp_path / "old", earlier(kind), shards=1)
    done = apply(op, before, str(tmp_path / "out"))
    assert done.read()["tools"].null_count == done.num_rows > 0


def test_a_schema_of_today_is_left_alone() -> None:
    assert migrated(PROMPTS) is PROMPTS
    tokens = Schema("tokens", 1, (Column("input_ids", pa.list_(pa.int32()), ""),))
    assert migrated(tokens) is tokens
    assert TOOLS in migrated(earlier(CHATS)).columns


def test_ids_of_rows_without_the_new_fields_are_those_of_version_1(tmp_path: Path) -> None:
    """Ids as an import of commit 464e5df wrote them."""
    (tmp_path / "a.jsonl").write_text('{"prompt": "What is 2+2?", "response": "é 4"}\n')
    done = apply(Jsonl(files=(str(tmp_path / "a.jsonl"),), format="completions"), [], str(tmp_path / "out"))
    (row,) = done.read().to_pylist()
    assert (row["prompt_id"], row["sample_id"]) == (
        "20473d074748844b9fabd873f80c1eeb",
        "23b689afee15e64f8fd3c2c7ac9d7911",
    )


def turn(**fields: object) -> dict[str, object]:
    return {"role": "assistant", "content": "a", **fields}


def ids(*chats: list[dict[str, object]], tools: list[str | None] | None = None) -> list[str]:
    parts = [pa.array(chats, MESSAGES)] + ([pa.array(tools, pa.string())] if tools else [])
    values: list[str] = content_ids(*parts).to_pylist()
    return values


def test_all_fields_but_the_weight_enter_the_id() -> None:
    base, *others = ids(
        [turn()],
        [turn(tool_calls="[]")],
        [turn(tool_call_id="[]")],
        [turn(reasoning="[]")],
        [turn(), turn()],
        [turn(reasoning="")],
    )
    assert len({base, *others}) == 6
    assert ids([turn(weight=0.0)], [turn(weight=1.0)]) == [base, base]
    with_tools = ids([turn()], [turn()], [turn()], tools=[None, "[]", "[1]"])
    assert (with_tools[0], len(set(with_tools))) == (base, 3)
    assert ids([turn(reasoning="1", tool_calls="2")]) != ids([turn(reasoning="12")])


def test_a_weight_changes_the_dataset_and_not_the_id(tmp_path: Path) -> None:
    made = []
    for name, weight in (("one", None), ("two", 0.0)):
        schema = CHATS.dropping("source")
        chats = pa.array([[turn(weight=weight)]], MESSAGES)
        attempt = Attempt.begin(str(tmp_path / name), schema)
        writer = attempt.shard(0)
        writer.write(schema.conform(pa.table({"chat_id": content_ids(chats), "messages": chats})))
        made.append(attempt.commit([writer.finish()]))
    assert made[0].read(["chat_id"]).equals(made[1].read(["chat_id"]))
    assert made[0].content_digest != made[1].content_digest
