"""Near names, worked out by hand."""

from __future__ import annotations

import pytest

from schemas.errors import ConfigError
from schemas.nearest import did_you_mean, meant, nearest, suggestion
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
    ],
)
def test_the_nearest_name_whatever_its_case_and_never_itself(name: str, known: list[str], expected: str) -> None:
    assert nearest(name, known) == expected
    assert suggestion(name, known) == (f" (did you mean {expected}?)" if expected else "")


def test_what_was_meant_is_read_where_it_was_said() -> None:
    assert meant(f"there is no file a.jsonl{did_you_mean('b.jsonl')}") == "b.jsonl"
    assert meant(f"unknown key x{did_you_mean('y')}: 2 faults") == meant("no file") == did_you_mean("") == ""


def test_a_file_is_not_taken_for_another_with_the_same_ending(tmp_path: object) -> None:
    for name in ("o3.jsonl", "rows.jsonl", "my-model"):
        open(f"{tmp_path}/{name}", "w").close()
    assert "did you mean" not in no_such_file(f"{tmp_path}/hh.jsonl").what
    assert "(did you mean rows.jsonl?)" in no_such_file(f"{tmp_path}/row.jsonl").what
    assert "(did you mean rows.jsonl?)" in no_such_file(f"{tmp_path}/rows.jsonlines").what
    assert near_name(f"{tmp_path}/my-reward-model") == ""
    assert near_name(f"{tmp_path}/my-modle") == " (did you mean my-model?)"


@pytest.mark.parametrize("name", ["grpo", "GRPO", "ppo", "rloo"])
def test_a_method_that_is_not_here_is_not_taken_for_another(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        algorithm_of(name)
    assert "did you mean" not in caught.value.what
    with pytest.raises(ConfigError, match=r"\(did you mean dpo\?\)"):
        algorithm_of("DPO")
