"""Rows in a notebook: conversations by turn, what is learnt marked, hostile texts as texts, with itables or without."""

from __future__ import annotations

import importlib.util
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.browse import browse, browser
from datakit.browse.cells import LONGEST
from datakit.run.resource import Resource
from datakit.template import Chat
from datakit.tokenize import Mask
from schemas import CHATS, COMPLETIONS, MESSAGES
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from tests.datakit.fakes import letters

HOSTILE = "</script><script>alert(1)</script>\u202e\x1b[31m"


@pytest.fixture
def static(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where itables is not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: name != "itables" and find(name, *more))


class _Cells(HTMLParser):
    """The texts of cells, and every tag that there is."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


@pytest.mark.usefixtures("static")
def test_a_conversation_is_shown_by_turn_and_numbers_to_the_right() -> None:
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So.", "weight": 0.0}]
    shown = browse(
        pa.table({"messages": pa.array([turns], MESSAGES), "reward": [0.123456789], "tags": [None]})
    )._repr_html_()
    assert _Cells(shown).cells[:3] == ["messages", "reward", "userWhy?assistantSo."]
    assert 'class="qv-turn qv-user"' in shown and 'class="qv-turn qv-assistant qv-unlearnt"' in shown
    assert "1 row; not shown: tags" in shown and '<td class="qv-number">0.123457</td>' in shown


@pytest.mark.usefixtures("static")
def test_a_hostile_row_is_a_text() -> None:
    rows = pa.table({f"<img>{HOSTILE}": [HOSTILE], "long": ["x" * 1_000_000], "struct": [{"a": HOSTILE}]})
    cells = _Cells(browse(rows)._repr_html_())
    assert cells.tags <= {"style", "div", "table", "thead", "tbody", "tr", "th", "td", "span", "code"}
    assert "\x1b" not in "".join(cells.cells) and "\u202e" not in "".join(cells.cells)
    assert cells.cells[3] == "</script><script>alert(1)</script>\\u202e\\u001b[31m"
    assert len(cells.cells[4]) < LONGEST + 50 and cells.cells[4].endswith("… 1,000,000 characters")


def test_with_itables_rows_are_data_that_no_tag_of_theirs_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The script comes once in a process; what asks a network is not among it."""
    monkeypatch.setattr(browser, "_loaded", set())
    rows = pa.table({"response": [HOSTILE, "fine"], "reward": [math.nan, 2.0]})
    first, second = browse(rows)._repr_html_(), browse(rows)._repr_html_()
    assert len(second) < 20_000 and len(first) > 500_000 and first.endswith(second[-200:])
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", second, re.DOTALL)
    assert any("&lt;/script&gt;&lt;script&gt;alert(1)" in one for one in scripts) and "<script>alert" not in second
    assert not re.search(r"(?:src|import)\W{1,3}https?:", second)


def test_what_rows_may_be(tmp_path: Path) -> None:
    rows = COMPLETIONS.example(9)
    data = Dataset.from_arrow(rows, COMPLETIONS, str(tmp_path / "rows"))
    given = [data, rows, pl.DataFrame({"a": range(9)}), duckdb.sql("SELECT * FROM range(9) AS r(a)")]
    assert [repr(browse(one)).partition(":")[0] for one in given] == ["9 rows"] * 4
    few = [repr(browse(one, most=4)).partition(":")[0] for one in given]
    assert few == ["the first 4 rows of 9"] * 3 + ["the first 4 rows"]
    assert repr(browse(data, ["response", "prompt_id"])) == "9 rows: response, prompt_id"
    with pytest.raises(ConfigError, match=r"the rows have no respons \(did you mean response\?\)"):
        browse(data, ["respons"])


@pytest.mark.usefixtures("static")
def test_what_is_learnt_is_marked_in_tokens_and_in_templated_text(tmp_path: Path) -> None:
    tokenizer: Any = letters()
    speaks = {"tokenizer": Resource(tokenizer.identity, letters)}
    turns = [[{"role": "user", "content": f"q{at}"}, {"role": "assistant", "content": f"a{at}"}] for at in range(3)]
    empty = {name: pa.nulls(3, CHATS[name].type) for name in CHATS.names}
    chats = CHATS.conform(pa.table({**empty, "chat_id": list("abc"), "messages": pa.array(turns, MESSAGES)}))
    rows = Dataset.from_arrow(chats, CHATS, str(tmp_path / "chats"))
    texts = apply(Chat(template="text"), [rows], str(tmp_path / "texts"), resources=speaks)
    tokens = apply(Mask(id_column="chat_id"), [texts], str(tmp_path / "tokens"), resources=speaks)
    pieces, decoded = browse(texts)._repr_html_(), browse(tokens, most=2, tokenizer=tokenizer)._repr_html_()
    for at in range(2):
        text = f"&lt;bos&gt;q{at}<mark>a{at}&lt;eos&gt;</mark>"
        assert text in pieces and text in decoded
    assert (
        "q2" in pieces and "q2" not in decoded and re.search("the first 2 rows of 3; not shown: .*loss_mask", decoded)
    )
