"""label.attributes: all numbers of a scorer in one list, of one question; a number that is none rejects its row."""

from __future__ import annotations

import functools

import pytest

from datakit.apply import apply
from datakit.clients import PythonScorer
from datakit.label import Attributes
from datakit.run.resource import Resource
from schemas.errors import DataError, ServiceError
from tests.datakit.fakes import Example, LengthScorer, responses

ASKED: list[int] = []
"""How many answers `judged` was handed, call by call."""


def judged(response):
    """Two numbers an answer; one that is "bad" has no second."""
    ASKED.append(len(response))
    return {"b": [None if text == "bad" else 2.0 for text in response], "a": [float(len(text)) for text in response]}


def scorer() -> dict[str, Resource]:
    function = functools.partial(PythonScorer, f"{__name__}:judged", LengthScorer.takes)
    return {"scorer": Resource("judged", function, LengthScorer.takes)}


EXAMPLES = [
    Example(Attributes(names=("b", "a"), rows_per_chunk=5), (responses(*("x" * i for i in range(13))),), scorer())
]


def test_numbers_stand_in_the_order_of_the_names(put, tmp_path) -> None:
    given = put(responses("x", "yy"))
    ASKED.clear()
    made = apply(Attributes(names=("a", "b")), given, str(tmp_path / "made"), resources=scorer())
    assert made.read()["attributes"].to_pylist() == [[1.0, 2.0], [2.0, 2.0]]
    assert ASKED == [2]


def test_a_row_without_a_number_is_rejected(put, tmp_path) -> None:
    given = put(responses("x", "bad"))
    with pytest.raises(DataError, match="attribute-not-finite"):
        apply(Attributes(names=("a", "b")), given, str(tmp_path / "none"), resources=scorer())
    made = apply(Attributes(names=("a", "b")), given, str(tmp_path / "made"), resources=scorer(), max_rejected=1)
    assert made.read()["attributes"].to_pylist() == [[1.0, 2.0]]


def test_a_name_that_the_scorer_does_not_give(put, tmp_path) -> None:
    with pytest.raises(ServiceError, match="there is no c") as fault:
        apply(Attributes(names=("a", "c")), put(responses("x")), str(tmp_path / "none"), resources=scorer())
    assert fault.value.found == "b, a"
