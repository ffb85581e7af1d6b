"""Near names, worked out by hand."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from schemas.errors import ConfigError, error_of
from schemas.nearest import did_you_mean, nearest, suggestion
from schemas.store.opening import near_name, no_such_file
from trainers.registry import algorithm_of


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("DPO", ["rpo", "dpo"], "dpo"),
        ("TRL", ["trl", "nemo_aligner"], "trl"),
        ("Best-Of", ["best_of"], "best_of"),
        ("rows", ["rows"], ""),
        ("xyz", ["rows"], ""),
        ("rowz", ["rows", "row_kinds"], "rows"),
        ("Fst", ["Sft", "Fast"], "Sft"),
    ],
)
def test_the_nearest_name_whatever_its_case_and_never_itself(name: str, known: list[str], expected: str) -> None:
    assert nearest(name, known) == expected
    assert suggestion(name, known) == (f" (did you mean {expected}?)" if expected else "")


def test_an_error_shows_the_name_that_was_meant_and_hands_it_on() -> None:
    error = ConfigError("no-such-file", "there is no file a b.jsonl", wrong=("a b.jsonl",), nearest="c d.jsonl")
    assert error.what == "there is no file a b.jsonl (did you mean c d.jsonl?)" and did_you_mean("") == ""
    assert error.render() == f"error[2/no-such-file]: {error.what}"
    for other in (error_of(json.loads(error.as_json())), pickle.loads(pickle.dumps(error))):
        assert (type(other), other.what, other.wrong, other.nearest) == (
            ConfigError, error.what, ("a b.jsonl",), "c d.jsonl",
        )  # fmt: skip
    error.nearest = ""
    assert error.what == "there is no file a b.jsonl"


def test_a_file_is_not_taken_for_another_with_the_same_ending(tmp_path: object) -> None:
    for name in ("o3.jsonl", "rows.jsonl", "my-model"):
        open(f"{tmp_path}/{name}", "w").close()
    assert "did you mean" not in no_such_file(f"{tmp_path}/hh.jsonl").what
    assert "(did you mean rows.jsonl?)" in no_such_file(f"{tmp_path}/row.jsonl").what
    assert "(did you mean rows.jsonl?)" in no_such_file(f"{tmp_path}/rows.jsonlines").what
    assert near_name(f"{tmp_path}/my-reward-model") == ""
    assert near_name(f"{tmp_path}/my-modle") == "my-model"


@pytest.mark.parametrize("name", ["rloo", "RLOO", "reinforce"])
def test_a_method_that_is_not_here_is_not_taken_for_another(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        algorithm_of(name)
    assert "did you mean" not in caught.value.what
    with pytest.raises(ConfigError, match=r"\(did you mean dpo\?\)"):
        algorithm_of("DPO")


def test_a_hidden_file_is_never_meant(tmp_path: Path) -> None:
    for name in (".env", ".git", "notes.txt"):
        (tmp_path / name).touch()
    assert near_name(f"{tmp_path}/rows.jsonl") == "" and no_such_file(f"{tmp_path}/rows.jsonl").nearest == ""
    assert near_name(f"{tmp_path}/note.txt") == "notes.txt"
