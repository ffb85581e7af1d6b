"""blend.match: pairs by lot, in an order by lot, of texts that differ; every answer in a pair or beside it."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest

from datakit.blend import Match
from datakit.columns.conversations import of_rows
from datakit.op import Context, Result
from schemas import Column
from schemas.errors import ConfigError
from tests.datakit.fakes import Example


def answers(*prompts: tuple[str, ...]) -> pa.Table:
    """The answers to each prompt; their ids are its number and their own."""
    ids = [(f"p{row}", f"p{row}-{at}", text) for row, texts in enumerate(prompts) for at, text in enumerate(texts)]
    columns = dict(zip(("prompt_id", "sample_id", "response"), map(pa.array, zip(*ids, strict=True)), strict=True))
    warmth = pa.array([float(len(name)) for _, name, _ in ids])
    return pa.table({**columns, "messages": of_rows([[("user", name)] for name, *_ in ids]), "temperature": warmth})


FEW = answers(("a", "b", "c", "a"), ("x",), ("y", "y"), ("", "z", " \n"), ("u", "v"))
WARM = Match().takes.adding(Column("temperature", pa.float64(), "what it was drawn at"))
EXAMPLES = [
    Example(Match(max_pairs=2, beside=(("temperature", "warmth"),)), (WARM.conform(FEW),)),
    Example(Match(), (Match().takes.conform(FEW),)),
]


def gathered(rows: pa.Table, seed: int = 0, **settings: object) -> Result:
    return Match(**settings).gather(rows, Context(seed=seed))


def test_pairs_differ_in_their_text_and_what_is_left_says_why() -> None:
    made = gathered(FEW, max_pairs=9)
    pairs = [{row["first"], row["second"]} for row in made.rows.to_pylist()]
    assert sorted(map(sorted, pairs)) == [["a", "b"], ["a", "b"], ["a", "c"], ["a", "c"], ["b", "c"], ["u", "v"]]
    assert {row["sample_id"]: row["reason"] for row in made.rejected.to_pylist()} == {
        "p1-0": "one-answer", "p2-0": "same-text", "p2-1": "same-text",
        "p3-0": "no-text", "p3-1": "one-answer", "p3-2": "no-text",
    }  # fmt: skip
    assert len({*made.rows["pair_id"].to_pylist()}) == 6


def test_of_more_the_rest_is_beyond() -> None:
    made = gathered(FEW, max_pairs=1)
    assert made.rows["prompt_id"].to_pylist() == ["p0", "p4"]
    beyond = [row["sample_id"] for row in made.rejected.to_pylist() if row["reason"] == "beyond-max-pairs"]
    taken = [made.rows[f"{side}_sample_id"][0].as_py() for side in ("first", "second")]
    assert sorted(beyond + taken) == ["p0-0", "p0-1", "p0-2", "p0-3"]


def test_every_pair_and_every_order_has_the_same_chance() -> None:
    """Of 3,000 prompts with three answers each of six (pair, order) has 500 with a deviation of 20."""
    made = gathered(answers(*[("a", "b", "c")] * 3000)).rows
    counts = Counter(zip(made["first"].to_pylist(), made["second"].to_pylist(), strict=True))
    assert len(counts) == 6 and all(abs(count - 500) < 110 for count in counts.values())


def test_neither_the_order_of_rows_nor_other_prompts_matter_and_the_seed_does() -> None:
    rows = answers(*[("a", "b", "c")] * 40)
    whole = {row["prompt_id"]: row for row in gathered(rows).rows.to_pylist()}
    turned = gathered(rows.take(pa.array(range(119, 59, -1)))).rows.to_pylist()
    assert len(turned) == 20 and all(row == whole[row["prompt_id"]] for row in turned)
    assert gathered(rows, seed=1).rows["pair_id"] != gathered(rows).rows["pair_id"]


def test_numbers_go_along_and_too_many_answers_go() -> None:
    made = gathered(FEW, beside=(("temperature", "warmth"),)).rows
    assert made["first_warmth"].to_pylist() == [4.0, 4.0]
    many = gathered(answers(tuple(map(str, range(65)))))
    assert many.rows.num_rows == 0 and {*many.rejected["reason"].to_pylist()} == {"too-many-answers"}
    with pytest.raises(ConfigError):
        Match(max_pairs=0)
