"""Conversations that are too long: against a loop that tries every cut."""

from __future__ import annotations

import itertools
import random
import tracemalloc
from typing import Any

import pyarrow as pa
import pytest

from datakit.op import Context, LabelResult
from datakit.run.resource import Resource
from datakit.template import Chat, Fit, fit
from datakit.tokenize import Encode, Mask
from schemas import CHATS, MESSAGES, PIECES
from schemas.errors import ConfigError
from schemas.schema import Schema
from tests.datakit.fakes import Example, letters

EXAMPLES = [
    Example(
        Fit(max_length=60, template="chatml", overlong=how), (CHATS.example(12),), {"tokenizer": Resource("l", letters)}
    )
    for how in ("drop", "cut-front", "cut-end")
]


def context() -> Context:
    return Context(resources={"tokenizer": letters()})


def drawn(draw: random.Random) -> list[dict[str, str]]:
    turns = [{"role": "system", "content": "be kind"}] if draw.random() < 0.5 else []
    roles = ("user", "assistant") * draw.randrange(1, 6)
    roles = roles if draw.random() < 0.7 else (*roles, "user")
    return [*turns, *({"role": role, "content": "x" * draw.randrange(1, 20)} for role in roles)]


def tokens_of(turns: list[dict[str, str]], answer: str | None = None) -> int:
    """A token for every letter that ChatML writes of them (its marks are plain text to this tokenizer)."""
    whole = [*turns, *([] if answer is None else [{"role": "assistant", "content": answer}])]
    return sum(len(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n") for turn in whole)


def expected(turns: list[dict[str, str]], limit: int, how: str, answer: str | None) -> list[dict[str, str]] | str:
    """What is left of a conversation, by trying one cut after the other."""
    if tokens_of(turns, answer) <= limit:
        return turns
    if how == "drop":
        return "too-long"
    first = int(turns[0]["role"] == "system")
    for cut in range(1, len(turns) - first):
        left = turns[:-cut] if how == "cut-end" else turns[:first] + turns[first + cut :]
        own = left[first:]
        asked, answered = (
            own[0]["role"] == "user",
            any(turn["role"] == "assistant" for turn in own) or answer is not None,
        )
        ends = how == "cut-front" or own[-1]["role"] == "assistant"
        if asked and answered and ends and tokens_of(left, answer) <= limit:
            return left
    return "no-exchange-fits"


@pytest.mark.parametrize(
    ("how", "answered"), [("drop", 0), ("cut-front", 0), ("cut-end", 0), ("cut-front", 1), ("drop", 1)]
)
def test_as_few_turns_as_will_do(how: Any, answered: int) -> None:
    draw, limit = random.Random(3), 150 if answered else 120
    rows = [drawn(draw) for _ in range(80)]
    table = pa.table({"messages": pa.array(rows, MESSAGES), "response": ["answer"] * len(rows)})
    op = Fit(max_length=limit, overlong=how, template="chatml", response="response" if answered else None)
    made = op.label(table, context())
    assert isinstance(made, LabelResult)
    kinds = set()
    for at, turns in enumerate(rows):
        wanted = expected(turns, limit, how, "answer" if answered else None)
        reason = made.kept.reason[at].as_py()
        if isinstance(wanted, str):
            assert reason == wanted and not made.kept.keep[at].as_py()
        else:
            assert made.kept.keep[at].as_py() and made.columns["turns_cut"][at].as_py() == len(turns) - len(wanted)
            left = made.columns["messages"][at].as_py() if how != "drop" else turns
            assert [(turn["role"], turn["content"]) for turn in left] == [(t["role"], t["content"]) for t in wanted]
        kinds.add(reason or ("cut" if made.columns["turns_cut"][at].as_py() else "whole"))
    assert len(kinds) == (2 if how == "drop" else 3)


LAST_REASONING = """{%- set at = namespace(last=0) -%}
{%- for m in messages %}{% if m.role == 'user' %}{% set at.last = loop.index0 %}{% endif %}{% endfor -%}
{%- for m in messages -%}
{%- if m.role == 'assistant' and loop.index0 > at.last and m.reasoning_content -%}
({{ m.reasoning_content }}){%- endif -%}
{{ m.content }};
{%- endfor -%}"""
"""Reasoning is shown behind the last question only, as Qwen3's template does it."""


def shown(turns: list[dict[str, str]]) -> int:
    """Letters of what `LAST_REASONING` writes."""
    last = max(at for at, turn in enumerate(turns) if turn["role"] == "user")
    thoughts = [turn["reasoning"] for turn in turns[last + 1 :] if turn.get("reasoning")]
    return sum(len(turn["content"]) + 1 for turn in turns) + sum(len(one) + 2 for one in thoughts)


@pytest.mark.parametrize("how", ["cut-end", "cut-front"])
def test_fewer_turns_may_be_longer(how: Any) -> None:
    """A loop over every cut, in order; reasoning makes lengths rise and fall with the number of turns."""
    draw = random.Random(5)
    rows = []
    for _ in range(120):
        turns: list[dict[str, str]] = []
        for _ in range(draw.randrange(1, 6)):
            turns.append({"role": "user", "content": "q" * draw.randrange(1, 4)})
            thought = {"reasoning": "r" * draw.randrange(1, 26)} if draw.random() < 0.5 else {}
            turns.append({"role": "assistant", "content": "a" * draw.randrange(1, 4), **thought})
        rows.append(turns)
    op = Fit(max_length=15, overlong=how, template=LAST_REASONING)
    made = op.label(pa.table({"messages": pa.array(rows, MESSAGES)}), context())
    assert isinstance(made, LabelResult)
    rises = 0
    for at, turns in enumerate(rows):
        cuts = range(0, len(turns), 2)
        lefts = [turns[cut:] if how == "cut-front" else turns[: len(turns) - cut] for cut in cuts]
        lengths = [shown(left) for left in lefts]
        wanted = next((cut for cut, length in zip(cuts, lengths, strict=True) if length <= 15), None)
        assert made.kept.keep[at].as_py() == (wanted is not None)
        if wanted is not None:
            assert made.columns["turns_cut"][at].as_py() == wanted, lengths
            rises += any(length > 15 for length in lengths[wanted // 2 + 1 :])
    assert rises if how == "cut-end" else not rises


def test_what_is_kept_is_what_the_tokenizer_then_counts() -> None:
    table = pa.table({"messages": pa.array([drawn(random.Random(at)) for at in range(20)], MESSAGES)})
    made = Fit(max_length=120, overlong="cut-front", template="chatml").label(table, context())
    assert isinstance(made, LabelResult)
    left = pa.table({"messages": made.columns["messages"]}).filter(made.kept.keep)
    pieces = Chat(template="chatml").label(left, context())
    lengths = Encode().label(pa.table(dict(pieces)), context())["input_ids"]  # type: ignore[arg-type,index]
    assert 0 < max(len(ids) for ids in lengths.to_pylist()) <= 120


def test_wrong_settings_are_named() -> None:
    for settings in ({"max_length": 0}, {"max_length": 5, "overlong": "cut-end", "response": "response"}):
        with pytest.raises(ConfigError):
            Fit(**settings)  # type: ignore[arg-type]
    labelled = Schema(
        "chats", 1, (*CHATS.columns, CHATS["source"].__class__("labels", pa.list_(pa.string()), "labels"))
    )
    with pytest.raises(ConfigError, match="labels"):
        Fit(max_length=5, overlong="cut-front").gives(labelled)


def test_a_cut_at_the_end_keeps_the_first_tokens_and_rows_that_still_teach() -> None:
    plain = {"special": False, "trained": False}
    texts = (("qqqq", "abc"), ("q" * 9, "a"))
    parts = [[{**plain, "text": asked}, {**plain, "text": learnt, "trained": True}] for asked, learnt in texts]
    table = pa.table({"sample_id": ["x", "y"], "pieces": pa.array(parts, PIECES)})
    made = Mask(max_length=6, overlong="truncate-right").label(table, context())
    assert isinstance(made, LabelResult)
    assert letters().decode(made.columns["input_ids"].to_pylist())[0] == "qqqqab"  # type: ignore[attr-defined]
    assert made.columns["loss_mask"][0].as_py() == [0, 0, 0, 0, 1, 1]
    assert made.kept.keep.to_pylist() == [True, False] and made.kept.reason[1].as_py() == "no-trained-token"


@pytest.mark.parametrize(("overlong", "response"), [("cut-front", None), ("cut-front", "answer"), ("cut-end", None)])
def test_the_cuts_are_those_of_a_plain_loop(overlong: str, response: str | None) -> None:
    """All conversations of up to six turns, against what the docstring says of each cut."""
    op = Fit(max_length=9, overlong=overlong, response=response)
    for count in range(7):
        for roles in itertools.product(("system", "user", "assistant"), repeat=count):
            turns = [{"role": role, "at": at} for at, role in enumerate(roles)]
            head = int(roles[:1] == ("system",))
            cuts = []
            for at in range(head, count):
                if overlong == "cut-end":
                    if at < count - 1 and roles[at] == "assistant" and "user" in roles[head:at]:
                        cuts.insert(0, turns[: at + 1])
                elif at > head and roles[at] == "user" and (response or "assistant" in roles[at:]):
                    cuts.append(turns[:head] + turns[at:])
            assert [fit._left(turns, way) for way in op._ways(turns)] == cuts


def test_the_cuts_of_many_turns_take_little_memory() -> None:
    """40,000 turns have 20,000 cuts, which were lists of 20,000 turns in the middle."""
    turns = [{"role": ("user", "assistant")[at % 2]} for at in range(40_000)]
    tracemalloc.start()
    try:
        for overlong in ("cut-front", "cut-end"):
            assert len(Fit(max_length=9, overlong=overlong)._ways(turns)) == 19_999
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("more", [{"response": ["answer"]}, {"tools": ["[]"]}], ids=["response", "tools"])
def test_the_only_long_row_may_fit_before_all_its_cuts_are_tried(more: dict[str, list[str]]) -> None:
    turns = [{"role": role, "content": "x" * 9} for role in (*("user", "assistant") * 3, "user")]
    answer = "answer" if "response" in more else None
    op = Fit(
        template="chatml",
        max_length=tokens_of(turns, answer) - 1,
        overlong="cut-front",
        response=None if answer is None else "response",
    )
    made = op.label(pa.table({"messages": pa.array([turns], MESSAGES), **more}), context())
    assert not isinstance(made, LabelResult)
    assert made["turns_cut"].to_pylist() == [2]
