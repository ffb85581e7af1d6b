"""What the tests of operations share: small committed datasets, and hand-made samples."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from schemas import MESSAGES, Schema
from schemas.dataset import Attempt, Dataset

Put = Callable[..., Dataset]


@pytest.fixture(scope="session")
def put(tmp_path_factory: pytest.TempPathFactory) -> Put:
    """`put(table, cuts=(3, 5), schema=...)`: a dataset of `table`, cut into shards before those rows."""
    folder: Path = tmp_path_factory.mktemp("datasets")
    numbers = itertools.count()

    def make(table: pa.Table, cuts: Sequence[int] = (), schema: Schema | None = None) -> Dataset:
        schema = schema or Schema.of_arrow(table.schema)
        attempt = Attempt.begin(str(folder / f"d{next(numbers)}"), schema)
        files = []
        for index, (start, stop) in enumerate(itertools.pairwise((0, *cuts, table.num_rows))):
            writer = attempt.shard(index)
            writer.write(schema.conform(table.slice(start, stop - start)))
            files.append(writer.finish())
        return attempt.commit(files)

    return make


@pytest.fixture(scope="session")
def answers() -> Callable[..., pa.Table]:
    """`answers({"a": [0.1, 0.9], "b": [1.0]})`: samples with these rewards; answer i to a is a0, a1, ..."""

    def make(rewards: dict[str, Sequence[float | None]]) -> pa.Table:
        rows = [(p, i, reward) for p, all_of_it in rewards.items() for i, reward in enumerate(all_of_it)]
        names = [f"{p}{i}" for p, i, _ in rows]
        table = pa.table(
            {
                "prompt_id": pa.array([p for p, _, _ in rows], pa.string()),
                "messages": pa.array([[{"role": "user", "content": f"question {p}"}] for p, _, _ in rows], MESSAGES),
                "sample_id": pa.array(names, pa.string()),
                "sample_index": pa.array([i for _, i, _ in rows], pa.int32()),
                "response": pa.array([f"answer {name}" for name in names], pa.string()),
                "reward": pa.array([reward for _, _, reward in rows], pa.float64()),
            }
        )
        return table.cast(pa.schema([field.with_nullable(field.name == "reward") for field in table.schema]))

    return make
