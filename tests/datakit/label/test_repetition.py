"""label.repetition against loops over strings, and by hand."""

from __future__ import annotations

import random
import re
from collections import Counter

import pyarrow as pa
import pytest

from datakit.label import Repetition
from datakit.op import Context
from tests.datakit.fakes import Example, responses

EXAMPLES = [Example(Repetition(), (responses("a b c\na b c\n\nx", "", "one two " * 20),))]


def measured(*texts):
    columns = Repetition().label(pa.table({"response": pa.array(texts, pa.string())}), Context())
    return [
        {name.removeprefix("response_"): column[row].as_py() for name, column in columns.items()}
        for row in range(len(texts))
    ]


def loops(text):
    """Gopher's measures, one after the other."""
    shares = {}
    for name, between in (("line", r"\n"), ("paragraph", r"\n\s*\n")):
        parts = [part.strip() for part in re.split(between, text) if part.strip()]
        again = [part for place, part in enumerate(parts) if part in parts[:place]]
        shares[f"duplicate_{name}s"] = len(again) / len(parts) if parts else 0.0
        characters = sum(map(len, parts))
        shares[f"duplicate_{name}_characters"] = sum(map(len, again)) / characters if parts else 0.0
    words = text.lower().split()
    total = sum(map(len, words))
    for n in range(2, 11):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        counts = Counter(grams)
        if n < 5:
            most = max((sum(map(len, gram)) * k for gram, k in counts.items() if k > 1), default=0)
            shares[f"top_{n}gram"] = min(most / total, 1.0) if total else 0.0
        else:
            covered = {i + j for i, gram in enumerate(grams) if counts[gram] > 1 for j in range(n)}
            shares[f"duplicate_{n}gram"] = sum(len(words[i]) for i in covered) / total if total else 0.0
    return shares


def test_by_hand():
    lines, none, twice = measured("aa\nbb\naa\n\ncc", None, "ab cd ab cd x")
    assert (lines["duplicate_lines"], lines["duplicate_line_characters"]) == (0.25, 0.25)
    assert lines["duplicate_paragraphs"] == 0 and set(none.values()) == {0.0}
    assert twice["top_2gram"] == pytest.approx(8 / 9) and twice["top_3gram"] == twice["duplicate_5gram"] == 0


def test_against_loops():
    rng = random.Random(6)
    texts = ["", "\n \n"]
    for _ in range(150):
        vocabulary = ["a", "bb", "ccc", "dd"][: rng.randrange(1, 5)]
        parts = rng.choices([*vocabulary, "\n", "\n\n"], [4] * len(vocabulary) + [1, 1], k=rng.randrange(60))
        texts.append(" ".join(parts))
    for text, shares in zip(texts, measured(*texts), strict=True):
        assert shares == pytest.approx(loops(text), abs=1e-12), text
