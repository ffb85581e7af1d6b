"""Elements of a file that is one JSON list: each has a place of its own, however many share a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.datakit.io.test_jsonl import EXTRA, load


@pytest.mark.parametrize("key", ["", "data"])
def test_elements_of_a_list_on_one_line_are_located_by_their_number_too(key: str, tmp_path: Path) -> None:
    records = [{"text": "a"}, {"x": 1}, {"text": "b"}, {"text": 3}]
    data = json.dumps({key: records} if key else records)
    rows, rejected = load(tmp_path / "a.json", data, format="prompts")
    assert len(rows) == 2
    assert [(row["line"], row["place"]) for row in rejected] == [
        (1, "a.json:1 (element 2)"),
        (1, "a.json:1 (element 4)"),
    ]


@pytest.mark.parametrize("between", [", ", ",\n"])
def test_pairs_are_of_neighbouring_elements_of_a_list_however_many_share_a_line(between: str, tmp_path: Path) -> None:
    texts = [json.dumps({"text": f"{EXTRA}a{at}"}) for at in range(6)]
    texts[2] = json.dumps({"text": 3})
    data = "[" + ", ".join(texts[:1]) + between + ", ".join(texts[1:4]) + ",\n" + ",".join(texts[4:])
    rows, rejected = load(tmp_path / "a.json", data + "]", format="comparisons")
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("a0", "a1"), ("a4", "a5")]
    assert [row["place"].partition(" ")[2] for row in rejected] == ["(element 3)", "(element 4)"]
    _, rejected = load(tmp_path / "b.json", f"[{texts[0]}, {texts[1]}, {texts[4]}]", format="comparisons")
    assert [(row["place"], row["reason"]) for row in rejected] == [("b.json:1 (element 3)", "unpaired-line")]
