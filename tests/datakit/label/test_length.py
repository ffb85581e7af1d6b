"""label.length: characters are code points, words are what white space separates, tokens are ids."""

from __future__ import annotations

import pyarrow as pa
import pytest

from datakit.label import Length
from datakit.op import Context
from tests.datakit.fakes import Example

EXAMPLES = [Example(Length(unit=unit, column=column)) for unit, column in (
    ("characters", "response"), ("words", "response"), ("tokens", "response_ids"))]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "characters", "words"),
    [
        ("", 0, 0),
        ("one", 3, 1),
        ("  two words ", 12, 2),
        ("é𝄞", 2, 1),
        ("a\u00a0b\u3000c\td\ne", 9, 5),
        ("\n \t", 3, 0),
    ],
)
def test_characters_and_words(text, characters, words):
    rows = pa.table({"response": [text]})
    assert Length().label(rows, Context())["response_characters"].to_pylist() == [characters]
    assert Length(unit="words", output="n").label(rows, Context())["n"].to_pylist() == [words]


def test_tokens():
    rows = pa.table({"response_ids": pa.array([[], [5], [5, 5, 9]], pa.list_(pa.int32()))})
    op = Length(column="response_ids", unit="tokens")
    assert op.label(rows, Context())["response_ids_tokens"].to_pylist() == [0, 1, 3]
