"""Gold answers that list instructions, and what a response earns for following them."""

from __future__ import annotations

import json

import pytest

from tests.datakit.verifiers.rows import verdicts

TWO = json.dumps(
    {
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [{"num_words": None}, {"num_words": 3, "relation": "at least"}],
    }
)


@pytest.mark.parametrize(
    ("response", "all_of_it", "share", "left"),
    [
        ("one two three", 1.0, 1.0, ""),
        ("one, two three", 0.0, 0.5, "punctuation:no_comma"),
        ("a, b", 0.0, 0.0, "punctuation:no_comma, length_constraints:number_words"),
        ("", 0.0, 0.0, "punctuation:no_comma, length_constraints:number_words"),
    ],
)
def test_all_instructions_or_their_share(response, all_of_it, share, left):
    assert verdicts("instructions", [(response, TWO)]) == [(all_of_it, left)]
    assert verdicts("instructions", [(response, TWO)], score="share") == [(share, left)]


def test_rows_with_other_instructions_stand_side_by_side():
    json_only = json.dumps({"instruction_id_list": ["detectable_format:json_format"], "kwargs": [{}]})
    pairs = [("one two three", TWO), ("{}", json_only), ("[1", json_only), ("a b c", TWO)]
    assert [right for right, _ in verdicts("instructions", pairs)] == [1, 1, 0, 1]


@pytest.mark.parametrize(
    "gold",
    [
        None, "", "{", "[]", "3", "null", '{"instruction_id_list": []}', '{"instruction_id_list": [], "kwargs": []}',
        '{"instruction_id_list": ["no:such"], "kwargs": [{}]}',
        '{"instruction_id_list": ["punctuation:no_comma"], "kwargs": []}',
        '{"instruction_id_list": ["keywords:existence"], "kwargs": [{}]}',
        '{"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": [""]}]}',
        '{"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": "cat"}]}',
        '{"instruction_id_list": [["a"]], "kwargs": [{}]}',
        '{"instruction_id_list": "punctuation:no_comma", "kwargs": [{}]}',
        '{"instruction_id_list": ["length_constraints:number_words"], "kwargs": [{"num_words": 1e400}]}',
        "[" * 100_000,
    ],
)  # fmt: skip
def test_instructions_that_cannot_be_read_are_set_aside(gold):
    assert verdicts("instructions", [("a", gold)])[0][0] == -1


def test_the_loose_reading_leaves_out_stars_and_lines_at_the_ends():
    gold = json.dumps({"instruction_id_list": ["startend:quotation"], "kwargs": [{}]})
    responses = ['"a"', 'Sure:\n"a"', 'Sure:\n**"a"**\nHope that helps', 'x "a" y', "Sure:"]
    pairs = [(response, gold) for response in responses]
    assert [right for right, _ in verdicts("instructions", pairs)] == [1, 0, 0, 0, 0]
    assert [right for right, _ in verdicts("instructions", pairs, loose=True)] == [1, 1, 1, 0, 0]
