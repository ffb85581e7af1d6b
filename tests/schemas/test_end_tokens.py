"""Which tokens end an answer: every source counts, a difference is said, what is no token is left out and said."""

from __future__ import annotations

import json
from typing import Any

import pytest

from schemas.end_tokens import EndTokens, TurnEnd, end_tokens
from schemas.errors import DataError

IDS = {f"w{number}": number for number in range(12)}
TEXTS = {number: text for text, number in IDS.items()}


def decided(taught: TurnEnd | None = None, **files: Any) -> EndTokens:
    names = {"tokenizer": "tokenizer_config.json", "config": "config.json", "generation": "generation_config.json"}
    return end_tokens({names[key]: json.dumps(value) for key, value in files.items()}, IDS.get, 10, taught)


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        ({"config": {"eos_token_id": [2, 5, 7]}}, [2, 5, 7]),
        ({"config": {"eos_token_id": 2}}, 2),
        ({"tokenizer": {"eos_token": {"content": "w3"}}, "config": {"eos_token_id": None}}, 3),
        ({"config": {"eos_token_id": [2, 5]}, "generation": {"eos_token_id": [7, 5]}}, [7, 5, 2]),
        (
            {"tokenizer": {"eos_token": "w1"}, "config": {"eos_token_id": 2}, "generation": {"eos_token_id": 4}},
            [4, 1, 2],
        ),
        ({"tokenizer": {"eos_token": "unheard of"}}, None),
        ({}, None),
    ],
)
def test_every_source_counts_and_generation_config_comes_first(files: dict[str, Any], ids: Any) -> None:
    assert decided(**files).value == ids


def test_a_turn_end_that_was_taught_counts_and_a_difference_is_reported() -> None:
    one = decided(TurnEnd(("w3", "not a token"), ("\n\nUser:",)), tokenizer={"eos_token": "w1"})
    assert (one.value, one.texts) == ([1, 3], ("not a token", "\n\nUser:"))
    text = one.differences(TEXTS.get)
    assert text == "end tokens: tokenizer_config.json names w1; the chat template names w3; each of them ends an answer"
    assert decided(TurnEnd(("w1",)), tokenizer={"eos_token": "w1"}).differences(TEXTS.get) == ""


def test_ids_of_no_token_are_left_out_and_said_and_other_values_are_refused() -> None:
    one = decided(config={"eos_token_id": [2, 11, -1]})
    assert one.value == 2
    assert one.differences(TEXTS.get) == "config.json names 11, -1, which is no token"
    for value in ("2", [2, "5"], True, 2.0, {"id": 2}):
        with pytest.raises(DataError, match="eos_token_id of generation_config"):
            decided(generation={"eos_token_id": value})


def test_a_turn_end_survives_a_manifest_and_a_mixture() -> None:
    one, other = TurnEnd(("w1",)), TurnEnd(("w2",), ("\n\nUser:",))
    assert TurnEnd.of(one.facts) == one
    mixed = {"turn_end": [one.facts["turn_end"], other.facts["turn_end"]]}
    assert TurnEnd.of(mixed) == TurnEnd(("w1", "w2"), ("\n\nUser:",))
    assert TurnEnd.of({}) == TurnEnd.of({"turn_end": "x"}) == TurnEnd.of({"turn_end": {"tokens": 3}}) == TurnEnd()
    assert one.after(other) == TurnEnd(("w1", "w2")), "texts of an earlier template no longer end an answer"
    assert TurnEnd().after(other) == other
