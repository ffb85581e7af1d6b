"""A pair is followed back to the samples that it was made of, by ids, in DuckDB; and no sample is lost on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.blend import Mix, Pair, PairAnswer, Unpair
from datakit.io import Jsonl
from schemas import PREFERENCES
from schemas.dataset import Dataset
from tests.datakit.fakes import bare

REASONS = ("stop", "length", None)
LINEAGE = ("chosen_sample_id", "rejected_sample_id", "chosen_finish_reason", "rejected_finish_reason")
_BROKEN = """
    SELECT count(*) FROM self
    LEFT JOIN samples AS better ON better.sample_id = chosen_sample_id
    LEFT JOIN samples AS worse ON worse.sample_id = rejected_sample_id
    WHERE (better.prompt_id, better.response, better.reward, better.finish_reason)
            IS DISTINCT FROM (self.prompt_id, chosen, chosen_reward, chosen_finish_reason)
        OR (worse.prompt_id, worse.response, worse.reward, worse.finish_reason)
            IS DISTINCT FROM (self.prompt_id, rejected, rejected_reward, rejected_finish_reason)
        OR better.reward - worse.reward <= 0.25
"""


@pytest.fixture
def samples(put: Any, answers: Any) -> Dataset:
    """Sixty answers to twelve questions, a few of them without a reward, of equal rewards or of equal texts."""
    rng = np.random.default_rng(7)
    rewards = {f"p{number}-": [*(rng.integers(0, 9, 5) / 4).tolist()] for number in range(10)}
    rows = answers({**rewards, "none-": [None, float("nan"), 1.0], "one-": [2.0], "same-": [1.0] * 6})
    texts = [text[: -1 if number % 7 < 2 else None] for number, text in enumerate(rows["response"].to_pylist())]
    field = rows.schema.field("response")
    rows = rows.set_column(rows.schema.get_field_index("response"), field, pa.array(texts))
    ends = pa.array([REASONS[number % 3] for number in range(rows.num_rows)], pa.string())
    return put(rows.append_column("finish_reason", ends))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "settings",
    [
        {"rule": "best_vs_worst"},
        {"rule": "best_vs_random", "max_pairs": 2},
        {"rule": "all_pairs", "max_pairs": 3},
        {"rule": "right_vs_wrong", "max_pairs": 2, "max_length_ratio": 1.0},
    ],
    ids=lambda settings: settings["rule"],
)
def test_pairs_join_their_samples_and_every_other_sample_is_set_aside(
    settings: dict[str, Any], samples: Dataset, tmp_path: Path
) -> None:
    pairs = apply(Pair(**settings, margin=0.25), samples, str(tmp_path / "pairs"), seed=3)
    assert pairs.schema == PREFERENCES and pairs.num_rows > 5
    assert pairs.sql(_BROKEN, samples=samples).fetchall() == [(0,)]
    rows, gone = pairs.read(), pairs.read_rejected()
    assert gone is not None
    paired = {*rows["chosen_sample_id"].to_pylist(), *rows["rejected_sample_id"].to_pylist()}
    left = gone["sample_id"].to_pylist()
    assert len(left) == len({*left}) and not paired & {*left}
    assert sorted(paired | {*left}) == sorted(samples.read(["sample_id"])["sample_id"].to_pylist())
    assert sum(pairs.stats["rejected"].values()) == len(left) and gone["reason"].null_count == 0
    known = dict(zip(*(samples.read()[name].to_pylist() for name in ("sample_id", "reward")), strict=True))
    assert all(row["reward"] == known[row["sample_id"]] for row in gone.to_pylist() if row["reason"] != "not-finite")
    assert {"response", "messages"} & {name for name in gone.column_names if gone[name].null_count < len(left)} == set()


def test_each_answer_of_a_pair_taken_apart_joins_its_sample(samples: Dataset, tmp_path: Path) -> None:
    pairs = apply(Pair(rule="all_pairs", max_pairs=3), samples, str(tmp_path / "pairs"))
    apart = apply(Unpair(desirable=True), pairs, str(tmp_path / "apart"))
    query = """
        SELECT count(*), count(*) FILTER (samples.response = self.response
            AND samples.finish_reason IS NOT DISTINCT FROM self.finish_reason) FROM self
        JOIN samples ON drawn_sample_id = samples.sample_id
    """
    assert apart.sql(query, samples=samples).fetchall() == [(2 * pairs.num_rows, 2 * pairs.num_rows)]
    reward = """
        SELECT bool_and((reward = chosen_reward) = desirable) FROM self
        JOIN samples ON drawn_sample_id = samples.sample_id JOIN pairs ON self.sample_id LIKE pair_id || '-%'
    """
    assert apart.sql(reward, samples=samples, pairs=pairs).fetchall() == [(True,)]


def test_of_self_play_the_rejected_answer_alone_was_drawn(samples: Dataset, put: Any, tmp_path: Path) -> None:
    rows = samples.read()
    given = put(rows.append_column("answer", pa.array(["known"] * rows.num_rows)).replace_schema_metadata())
    made = apply(PairAnswer(), given, str(tmp_path / "pairs")).read()
    assert made["rejected_sample_id"].to_pylist() == rows["sample_id"].to_pylist()
    assert made["rejected_finish_reason"].to_pylist() == rows["finish_reason"].to_pylist()
    assert made["chosen_sample_id"].null_count == made["chosen_finish_reason"].null_count == made.num_rows


def test_of_self_play_the_chosen_answer_is_the_sample_that_it_was(samples: Dataset, put: Any, tmp_path: Path) -> None:
    rows = samples.read().replace_schema_metadata()
    names, reasons = pa.array(["old"] * rows.num_rows), pa.array(["length", None] * (rows.num_rows // 2), pa.string())
    for name, values in (("answer", names), ("answer_sample_id", names), ("answer_finish_reason", reasons)):
        rows = rows.append_column(name, values)
    made = apply(PairAnswer(), put(rows), str(tmp_path / "pairs")).read()
    assert (made["chosen_sample_id"], made["chosen_finish_reason"]) == (
        rows["answer_sample_id"],
        rows["answer_finish_reason"],
    )


def test_pairs_from_outside_were_drawn_as_nothing_and_mix_with_those_that_were(
    samples: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "hi", "chosen": "yo", "rejected": "no"}\n')
    outside = apply(Jsonl(files=(str(tmp_path / "a.jsonl"),), format="preferences"), [], str(tmp_path / "outside"))
    (row,) = outside.read().to_pylist()
    assert [row[name] for name in LINEAGE] == [None] * 4 and bare(row["messages"])
    apart = apply(Unpair(), outside, str(tmp_path / "apart")).read()
    assert apart["drawn_sample_id"].null_count == apart["finish_reason"].null_count == 2
    pairs = apply(Pair(), samples, str(tmp_path / "pairs"))
    mix = apply(Mix(sources=("own", "more"), epochs=(1.0, 1.0)), [pairs, outside], str(tmp_path / "mix")).read()
    names = mix["chosen_sample_id"].to_pylist()
    assert names.count(None) == 1 and {*names} - {None} == {*pairs.read()["chosen_sample_id"].to_pylist()}


def test_a_finish_reason_that_is_no_text_is_none(answers: Any, put: Any, tmp_path: Path) -> None:
    rows = answers({"a": [0.0, 1.0]}).append_column("finish_reason", pa.array([1, 2]))
    (row,) = apply(Pair(), put(rows), str(tmp_path / "pairs")).read().to_pylist()
    assert (row["chosen_finish_reason"], row["chosen_sample_id"]) == (None, "a1")
