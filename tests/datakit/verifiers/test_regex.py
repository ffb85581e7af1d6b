"""Patterns in responses: what matches, what is refused, and that neither a pattern nor an answer holds up a run."""

from __future__ import annotations

import time

import pytest

from datakit.label import Verify
from schemas.errors import ConfigError
from tests.datakit.verifiers.rows import verdicts


def test_each_row_has_its_own_pattern():
    pairs = [("on 3 May", r"\d+ May"), ("in May", r"\d+ May"), ("a", ""), ("a", None), ("a", "("), ("aa", r"(a)\1")]
    assert verdicts("regex", pairs) == [(1, "3 May"), (0, None), (1, ""), (-1, None), (-1, None), (-1, None)]


def test_one_pattern_for_all_rows_reads_no_gold():
    assert verdicts("regex", [("yes", None), ("no", None)], pattern="^(?i)YES$") == [(1, "yes"), (0, None)]
    assert Verify(kind="regex", settings={"pattern": "a"}).takes.names == ("response",)
    assert Verify(kind="regex").takes.names == ("response", "answer")


def test_the_whole_response_or_a_part_of_it():
    pairs = [(" 12 \n", r"\d+|x"), ("12 or 13", r"\d+|x"), ("ax", "a|x")]
    assert [right for right, _ in verdicts("regex", pairs, whole=True)] == [1, 0, 0]
    assert [right for right, _ in verdicts("regex", pairs)] == [1, 1, 1]


@pytest.mark.parametrize("pattern", ["(", "(?=a)", r"\1", "a" * 1001, "(a{100}){100}", "(?:[^x]{0,900}){10}z"])
def test_patterns_that_cannot_be_used_are_refused(pattern):
    with pytest.raises(ConfigError, match="bad-setting"):
        Verify(kind="regex", settings={"pattern": pattern})
    assert verdicts("regex", [("a", pattern)]) == [(-1, None)]


HOSTILE = ["(a+)+$", "(a|a)*b", "(.*a){20}b", r"(\w?){80}b", "(a?){20}a{10}b", "^(([a-z])+.)+[A-Z]([a-z])+$"]


@pytest.mark.parametrize("pattern", HOSTILE)
def test_hostile_patterns_and_answers_take_linear_time(pattern):
    begun = time.process_time()
    assert verdicts("regex", [("a" * 20_000 + "!", pattern)])[0][0] in (0, 1)
    assert time.process_time() - begun < 10


def test_an_answer_too_long_for_its_pattern_is_not_read():
    (short, long) = verdicts("regex", [("a" * 1000, "(a?){400}"), ("a" * 200_000, "(a?){400}")])
    assert short == (1, "a" * 400) and long == (0, None)
