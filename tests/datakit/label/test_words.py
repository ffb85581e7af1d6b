"""label.words by hand, and against loops over lists of words."""

from __future__ import annotations

import random
import re
import time

import pyarrow as pa
import pytest

from datakit.label import Words
from datakit.op import Context
from schemas.errors import ConfigError
from tests.datakit.fakes import Example, responses

EXAMPLES = [Example(Words(listed=("fool", "shut up")), (responses("Shut up, you fool!", "", "foolish"),))]


def measured(listed, *texts, **settings):
    columns = Words(listed=listed, **settings).label(pa.table({"response": pa.array(texts, pa.string())}), Context())
    return list(zip(*(column.to_pylist() for column in columns.values()), strict=True))


@pytest.mark.parametrize(
    ("text", "count", "first"),
    [
        ("You FOOL. Shut\nup, fool!", 3, "fool"),
        ("foolish, a fool-proof plan", 1, "fool"),
        ("shut the door up", 0, None),
        ("Shut up up", 1, "shut up"),
        ("\uff26\uff2f\uff2f\uff2c", 1, "fool"),
        ("du Trottel, Übel übel", 3, "TROTTEL"),
        ("up shut up", 1, "shut up"),
        ("", 0, None),
        (None, 0, None),
    ],
)
def test_by_hand(text, count, first):
    assert measured(("fool", "shut up", "TROTTEL", "übel"), text) == [(count, first)]


def test_of_phrases_that_begin_at_one_word_the_longer_is_first():
    assert measured(("a", "a b", "b"), "a b c", "b a b", "c") == [(3, "a b"), (4, "b"), (0, None)]


def test_against_loops():
    rng = random.Random(4)
    letters = "abcd"
    phrases = tuple(dict.fromkeys(" ".join(rng.choices(letters, k=rng.randint(1, 3))) for _ in range(12)))
    texts = [" ".join(rng.choices(letters, k=rng.randint(0, 12))) for _ in range(300)]
    for text, (count, first) in zip(texts, measured(phrases, *texts), strict=True):
        words = text.split()
        places = [
            (at, -len(phrase.split()), phrase)
            for phrase in phrases
            for at in range(len(words))
            if words[at : at + len(phrase.split())] == phrase.split()
        ]
        assert count == len(places) and first == (min(places)[2] if places else None)


def test_a_long_list_over_long_texts_takes_little_time():
    begun = time.process_time()
    assert [count for count, _ in measured(tuple(f"w{n}" for n in range(5000)), *["w1 w2 x " * 20_000] * 3)] == [
        40_000
    ] * 3
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("listed", [(), ("a", "..."), ("",)])
def test_settings_are_checked(listed):
    with pytest.raises(ConfigError, match=re.escape("label.words: listed")):
        Words(listed=listed)
