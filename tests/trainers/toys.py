"""Small datasets, networks and runs that training tests share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from schemas import PACKS, TOKENS, Schema
from schemas.dataset import Attempt, Dataset
from schemas.schema import Column
from trainers.algorithm import Algorithm
from trainers.algorithms import SFT
from trainers.architecture import ModelConfig

VOCABULARY = 60
MODEL = {
    "num_layers": 2,
    "hidden_size": 32,
    "ffn_hidden_size": 64,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "vocab_size": VOCABULARY,
    "max_sequence_length": 48,
}
SHARES = ("weight", "baseline")
"""Numbers that are never below 0. Rows of both signs would cancel, and what digits are left of a mean of such losses
depends on the order in which it is taken.
"""


PAST = "old_logprobs"
"""Log-probabilities of a policy that was less sure than any network here, so that ratios lie beyond their bounds: a
loss that weighs by a ratio within them may rise while it learns.
"""


def model(**changes: Any) -> ModelConfig:
    return ModelConfig(**{**MODEL, **changes})


def ids(rows: int, seed: int, least: int = 5, most: int = 30) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(0, VOCABULARY, random.integers(least, most)).tolist() for _ in range(rows)]


def tokens(rows: int, seed: int = 0, first: int = 0) -> pa.Table:
    """Rows `s<first>`, ...: the first third of each is not counted."""
    sequences = ids(rows, seed)
    columns = {
        "sample_id": [f"s{first + i}" for i in range(rows)],
        "input_ids": sequences,
        "loss_mask": [[int(i >= len(row) // 3) for i in range(len(row))] for row in sequences],
        "source": pa.nulls(rows, pa.string()),
    }
    return pa.table(columns, schema=TOKENS.arrow)


def example_for(algorithm: Algorithm, rows: int) -> pa.Table:
    """The example of its row kind, with vectors as long as the head's answer."""
    table = algorithm.rows.example(rows)
    for name in algorithm.vectors:
        at, wide = table.column_names.index(name), rows_for(algorithm, rows)
        table = table.set_column(at, table.schema.field(at), wide[name])
    return table


def rows_for(algorithm: Algorithm, rows: int, seed: int = 0) -> pa.Table:
    """Rows that any algorithm can train on, made from what it declares."""
    random = np.random.default_rng(seed)
    columns: dict[str, Any] = {column.name: [None] * rows for column in algorithm.rows.columns}
    for name in algorithm.rows.key:
        columns[name] = [f"{name} {i}" for i in range(rows)]
    if "source" in columns:
        columns["source"] = [("web", "books", None)[i % 3] for i in range(rows)]
    for name in algorithm.numbers:
        numbers = random.normal(size=rows)
        kind = algorithm.rows[name].type
        counts = 1 + np.abs(numbers * 2).astype(int) if pa.types.is_integer(kind) else numbers
        columns[name] = (numbers > 0 if pa.types.is_boolean(kind) else counts).tolist()
        if name in SHARES:
            columns[name] = np.abs(numbers).tolist()
    for name in algorithm.vectors:
        width = algorithm.num_outputs(algorithm.settings())
        columns[name] = random.normal(size=(rows, width)).tolist()
    for number, sequence in enumerate(algorithm.sequences):
        lists = columns[sequence.ids] = ids(rows, seed + number)
        for name in sequence.columns:
            wide = () if not pa.types.is_list(algorithm.rows[name].type.value_type) else (3,)
            columns[name] = [random.normal(size=(len(row), *wide)).tolist() for row in lists]
        if PAST in sequence.columns:
            columns[PAST] = [[-6 - abs(value) for value in row] for row in columns[PAST]]
        if sequence.mask is not None:
            columns[sequence.mask] = [[int(i >= len(row) // 3) for i in range(len(row))] for row in lists]
        if sequence.gather_ids is not None:
            columns[sequence.gather_ids] = [random.integers(0, VOCABULARY, (len(row), 3)).tolist() for row in lists]
    return pa.Table.from_pydict(columns, schema=algorithm.rows.arrow)


def packed_rows(algorithm: Algorithm, table: pa.Table, sizes: Sequence[int]) -> tuple[Schema, pa.Table]:
    """Rows of `algorithm` laid end to end in packs of `sizes` rows: what it reads of packs, and the key of the rows."""
    key = algorithm.rows.key[0]
    inside = algorithm.rows.selecting(*algorithm.lists, *algorithm.vectors, *algorithm.numbers)
    names = Column(f"{key}s", pa.list_(pa.string()), "the row of each sequence inside")
    lengths = (Column(s.lengths, pa.list_(pa.int32()), "tokens of each inside") for s in algorithm.sequences)
    whole = (replace(inside[name], type=pa.list_(inside[name].type)) for name in algorithm.numbers)
    schema = PACKS.selecting("pack_id").adding(*inside.columns).adding(*whole, names, *lengths)
    schema = schema.renamed("packs", key=("pack_id",))
    rows, packs = iter(table.to_pylist()), []
    for number, size in enumerate(sizes):
        chosen = [next(rows) for _ in range(size)]
        pack: dict[str, Any] = {"pack_id": f"k{number}", names.name: [row[key] for row in chosen]}
        pack |= {name: [row[name] for row in chosen] for name in algorithm.numbers}
        pack |= {
            name: [value for row in chosen for value in row[name]] for name in (*algorithm.lists, *algorithm.vectors)
        }
        pack |= {s.lengths: [len(row[s.ids]) for row in chosen] for s in algorithm.sequences}
        packs.append(pack)
    return schema, pa.Table.from_pylist(packs, schema=schema.arrow)


def packed(table: pa.Table, sizes: Sequence[int]) -> pa.Table:
    """The rows of a TOKENS table laid end to end in packs of `sizes` rows."""
    return PACKS.conform(packed_rows(SFT, table, sizes)[1])


def put(
    url: Path, schema: Schema, *shards: pa.Table, rows_per_group: int = 7, facts: dict[str, Any] | None = None
) -> Dataset:
    """A dataset with these shards."""
    attempt, files = Attempt.begin(str(url), schema, rows_per_group=rows_per_group), []
    for number, table in enumerate(shards):
        with attempt.shard(number) as writer:
            writer.write(table)
            files.append(writer.finish())
    return attempt.commit(files, facts=facts)


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    """A short run of sft over `folder`/tokens, which it writes."""
    if not Dataset.exists(str(folder / "tokens")):
        put(folder / "tokens", TOKENS, tokens(20), tokens(11, seed=1, first=20))
    base: dict[str, Any] = {
        "algorithm": "sft",
        "data": str(folder / "tokens"),
        "out": str(folder / "policy"),
        "model": MODEL,
        "optim": {"lr": 1e-2, "warmup_steps": 2, "schedule": "cosine", "min_lr": 1e-3},
        "max_steps": 8,
        "global_batch_size": 12,
        "micro_batch_tokens": 100,
        "log_rows": True,
    }
    return {name: value for name, value in {**base, **changes}.items() if value is not ...}


def written(path: Path, settings: dict[str, Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings))
    return str(path)


def curve(work: Path) -> list[dict[str, Any]]:
    """A run's metrics without what depends on the clock."""
    lines = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    clock = ("seconds", "wait_seconds", "tokens_per_second", "mfu")
    return [{name: value for name, value in line.items() if name not in clock} for line in lines]


def row_log(work: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work / "rows.jsonl").read_text().splitlines()]
