"""filter.decontaminate: rows that hold evaluation rows go, and name the set, the row there and the share."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path

import pyarrow as pa
import pytest

from datakit.apply import apply, check
from datakit.columns import overlaps
from datakit.columns.conversations import of_rows
from datakit.filter import Decontaminate
from schemas import Schema
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import Example

GSM8K = Path(os.environ.get("QUIVER_SHARED_DATA", "")) / "gsm8k-train" / "train.jsonl.gz"


def chats(*texts):
    return pa.table({"messages": of_rows([[("system", "be " * 20), ("user", text)] for text in texts])})


def words(first, count):
    return " ".join(f"w{i}" for i in range(first, first + count))


EXAMPLES = [
    Example(
        Decontaminate(sets=("a", "b")),
        (
            chats(words(0, 30), words(100, 20), "x", words(0, 14), words(60, 9)),
            chats(words(0, 20)),
            chats(words(60, 9)),
        ),
    ),
]


def gone_of(out):
    rows = out.read_rejected().to_pylist()
    assert {row["reason"] for row in rows} <= {"contaminated"}
    return [
        (row["messages"][-1]["content"], row["evaluation_set"], row["evaluation_row"], row["value"]) for row in rows
    ]


def test_by_hand(put, tmp_path):
    """20 words are eight runs of 13; of these a row with the first 14 words has two."""
    given = [words(0, 30), words(100, 20), "", words(0, 14).upper() + "!", words(5, 12), "so: " + words(60, 9)]
    a, b = put(chats(words(300, 20), words(0, 20)), (1,)), put(chats(words(60, 9), words(50, 20), words(100, 3)))
    out = apply(Decontaminate(sets=("a", "b")), [put(chats(*given), (2, 3)), a, b], str(tmp_path / "o"))
    assert gone_of(out) == [
        (given[0], "a", "1", 1.0),
        (given[3], "a", "1", 0.25),
        (given[5], "b", "0", 1.0),
    ]
    assert out.num_rows == 3 and out.read_rejected()["threshold"][0].as_py() == "13-grams in common"
    assert out.stats["counts"] == {
        "rows.a": 2, "rows.b": 1, "overlapped.a": 1, "overlapped.b": 1, "short.a": 0, "short.b": 1,
    }  # fmt: skip
    assert Decontaminate(sets=("a", "b")).notes(out.manifest) == (
        "a: 2 rows overlap with 1 of its rows",
        "b: 1 rows overlap with 1 of its rows; 1 of fewer than 8 words were not sought",
    )
    shares = apply(Decontaminate(sets=("a",), share=0.5), [put(chats(*given)), a], str(tmp_path / "p"))
    assert gone_of(shares) == [(given[0], "a", "1", 1.0)]


@pytest.mark.parametrize("together", [1, 1 << 22])
def test_against_sets_of_strings(put, tmp_path, monkeypatch, together):
    monkeypatch.setattr(overlaps, "_TOGETHER", together)
    rng, n = random.Random(1), 3
    texts = [[" ".join(rng.choices("abcd", k=rng.randrange(9))) for _ in range(count)] for count in (120, 7, 5)]

    def grams(text, length):
        parts = text.split()
        return {tuple(parts[i : i + length]) for i in range(len(parts) - length + 1)}

    expected = {}
    for place, text in enumerate(texts[0]):
        best = []
        for number, part in enumerate(texts[1:]):
            for row, other in enumerate(part):
                length = min(n, len(other.split()))
                own = grams(other, length) if length >= 2 else set()
                if own & grams(text, length):
                    best.append((-len(own & grams(text, length)) / len(own), number, row))
        if best:
            expected[place] = min(best)
    given = [put(chats(*part), (len(part) // 3,)) for part in texts]
    op = Decontaminate(sets=("s0", "s1"), n=n, shortest=2)
    out = apply(op, given, str(tmp_path / "o"))
    kept = [row[-1]["content"] for row in out.read()["messages"].to_pylist()]
    assert kept == [text for place, text in enumerate(texts[0]) if place not in expected]
    assert 10 < len(expected) < 110
    assert gone_of(out) == [
        (texts[0][place], f"s{number}", str(row), pytest.approx(-share))
        for place, (share, number, row) in expected.items()
    ]


@pytest.mark.skipif(not GSM8K.is_file(), reason="GSM8K is not there (QUIVER_SHARED_DATA)")
def test_every_planted_question_of_gsm8k_goes_and_names_it(put, tmp_path):
    with gzip.open(GSM8K, "rt", encoding="utf-8") as file:
        questions = [json.loads(line)["question"] for line in file]
    rng = random.Random(3)
    made = [
        " ".join(rng.choice(("sun", "tree", "old", "runs", "we", "blue", "of")) for _ in range(60)) for _ in range(3000)
    ]
    planted = rng.sample(range(len(questions)), 1000)
    rows = [*made, *(f"Please solve this. {questions[i].replace(',', ' ,').upper()} Thank you." for i in planted)]
    given = [put(chats(*rows), (1500,)), put(chats(*made[:5], "what is it " * 4)), put(chats(*questions))]
    out = apply(Decontaminate(sets=("own", "gsm8k")), given, str(tmp_path / "o"))
    gone = {text: (name, int(row), value) for text, name, row, value in gone_of(out)}
    assert [gone[text] for text in rows[3000:]] == [("gsm8k", i, 1.0) for i in planted]
    assert {text for text, (name, _, _) in gone.items() if name == "own"} == {*made[:5]} and out.num_rows == 2995


def test_settings_and_inputs_are_checked():
    for wrong in ({"sets": ()}, {"sets": ("a", "a")}, {"n": 4}, {"share": 2.0}, {"shortest": 0}, {"columns": ()}):
        with pytest.raises(ConfigError) as fault:
            Decontaminate(**{"sets": ("a",), **wrong})
        assert fault.value.slug == "bad-setting"
    schema = Schema.of_arrow(chats("x").schema)
    with pytest.raises(ConfigError, match="got 1 inputs"):
        check(Decontaminate(sets=("a",)), (schema,), {})
    with pytest.raises(DataError, match=r"a in filter\.decontaminate"):
        check(Decontaminate(sets=("a",), sought=("question",)), (schema, schema), {})
