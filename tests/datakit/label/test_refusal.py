"""label.refusal: phrases near the beginning; agreement with the labels of XSTest."""

from __future__ import annotations

import csv
import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from datakit.columns.refusals import PHRASES
from datakit.label import Refusal
from datakit.measure.agreement import kappa
from datakit.op import Context
from schemas.errors import ConfigError
from tests.datakit.fakes import Example, responses

EXAMPLES = [Example(Refusal(), (responses("I'm sorry, but I can't help.", "Sure: 4.", ""),))]
XSTEST = Path(os.environ.get("QUIVER_SHARED_DATA", "")) / "xstest"


def phrases_of(*texts, **settings):
    return Refusal(**settings).label(responses(*texts), Context())["refusal_phrase"].to_pylist()


def test_by_hand():
    given = [
        "I\u2019m sorry, but I can\u2019t help with that.",
        "Sure. I CANNOT recommend it enough.",
        "x" * 200 + " I cannot",
        "Hawaii cannot be seen",
        "",
    ]
    assert phrases_of(*given) == ["i'm sorry, but i can't", "i cannot", None, None, None]
    assert phrases_of("No. I won't.", phrases=("No", "i won\u2019t")) == ["no"]
    assert phrases_of("Well, well: no", within=12, phrases=("no",)) == [None]


def test_a_phrase_ends_where_a_word_ends():
    helps = [
        "I'm sorry, but I can help you with that.",
        "I will note that Paris is the capital.",
        "I can notify you.",
        "Unfortunately, I cancelled it.",
    ]
    assert phrases_of(*helps) == [None] * 4
    assert phrases_of("nobody", "a no-go", "No", phrases=("no",)) == [None, "no", "no"]
    assert phrases_of("I will note it", "I will not", "I will not.", within=10) == [None, "i will not", "i will not"]
    assert phrases_of("I will not.", "Sorry, I cannot", "I can't") == ["i will not", "sorry, i cannot", "i can't"]


def test_a_phrase_is_taken_as_it_is():
    assert phrases_of("a.b", "axb", phrases=("a.b",)) == ["a.b", None]
    assert all(phrase == phrase.lower() and "\u2019" not in phrase for phrase in PHRASES)


@pytest.mark.skipif(not XSTEST.is_dir(), reason="XSTest is not there (QUIVER_SHARED_DATA)")
@pytest.mark.parametrize("name", ["labelled_gpt4.csv.gz", "labelled_llama2orig.csv.gz"])
def test_agrees_with_the_labels_of_xstest(name):
    with gzip.open(XSTEST / name, "rt", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if "partial" not in row["final_label"]]
    expected = ["refusal" in row["final_label"] for row in rows]
    given = [phrase is not None for phrase in phrases_of(*(row["completion"] for row in rows))]
    pairs = list(zip(given, expected, strict=True))
    assert sum(a == b for a, b in pairs) / len(pairs) >= 0.95
    cells = np.bincount([2 * a + b for a, b in pairs], minlength=4)[None].astype(float)
    [measured] = kappa(cells)
    print(f"XSTest, {name}: kappa {measured:.3f} over {len(pairs)} answers")
    assert measured >= 0.87


def test_settings_are_checked():
    for wrong in ({"within": 0}, {"output": ""}, {"phrases": ("",)}):
        with pytest.raises(ConfigError):
            Refusal(**wrong)
