"""Conversations of many turns and templates that take long: bounded work, and a fault of the row, not of the rows."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from functools import partial
from types import SimpleNamespace

import pyarrow as pa
import pytest

from datakit.op import Context, LabelResult
from datakit.template import Chat
from datakit.templating import learnt, render, sandbox, segments
from datakit.templating.sandbox import Conversation, Rendered, Sandbox
from schemas import MESSAGES
from schemas.errors import DataError

MARKED = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<end>"
    "{% endgeneration %}{% else %}{{ m.content }}<end>{% endif %}{% endfor %}"
)
SLOW_AT_FOUR = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if messages | length > 3 %}{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}"
    "{% endif %}"
)


@pytest.fixture
def renders() -> Iterator[list[Sandbox]]:
    opened: list[Sandbox] = []
    yield opened
    for one in opened:
        one.close()


def turns(count: int, tools: str | None = None) -> list[dict[str, str | None]]:
    return [
        {"role": ("user", "assistant")[at % 2], "content": f"t{at}", "tool_call_id": tools if at == 0 else None}
        for at in range(count)
    ]


def templated(op: Chat, *rows: list[dict[str, str | None]]) -> LabelResult | dict[str, pa.Array]:
    own = SimpleNamespace(bos_token="<s>", eos_token="</s>", pad_token=None, chat_template=None)
    return op.label(pa.table({"messages": pa.array(rows, MESSAGES)}), Context(resources={"tokenizer": own}))


@pytest.mark.parametrize("tools", [None, "call 1"], ids=["segments", "aligned"])
def test_a_row_of_too_many_turns_is_rejected_and_the_others_are_kept(tools: str | None) -> None:
    """20,000 turns: 10,000 beginnings of each kind, of 10,000 turns in the middle, are 10^8 turns of 64 and more."""
    made = templated(Chat(template="text"), turns(2), turns(20_000, tools), turns(4))
    assert isinstance(made, LabelResult)
    assert made.kept.keep.to_pylist() == [True, False, True]
    assert made.kept.reason.to_pylist()[1] == "too-many-turns"
    assert made.kept.threshold.to_pylist()[1].startswith("10,000 of 20,000 turns are learnt: ")
    assert made.columns["text"].to_pylist()[2].count("t3") == 1


@pytest.mark.parametrize("op", [Chat(template=MARKED), Chat(template="text", learn="last")], ids=["marks", "last"])
def test_what_needs_no_beginnings_has_no_such_limit(op: Chat) -> None:
    made = templated(op, turns(3_000))
    assert not isinstance(made, LabelResult)
    pieces = made["pieces"].to_pylist()[0]
    contents = [piece["text"] for piece in pieces if piece["trained"] and not piece["special"]]
    assert contents == (["t2999"] if op.learn == "last" else [f"t{at}" for at in range(1, 3_000, 2)])


def test_white_space_around_contents_is_looked_for_in_one_pass() -> None:
    """16,000 contents in a text of 500,000 characters: one search for each is 10^10 characters and more."""
    contents = tuple(f"\ue000{slot}{segments._CORE}\ue001" for slot in range(16_000))
    text = "".join(
        f"{(' ' + chr(10)) * (slot % 2)}{content}{(chr(10) + ' ') * (slot % 3 == 0)}|"
        for slot, content in enumerate(contents)
    )
    start = time.process_time()
    left, right, altered = segments._strips(Rendered(text), contents)
    assert time.process_time() - start < 1
    assert left == {slot for slot in range(16_000) if slot % 2 == 0} and not altered
    assert right == {slot for slot in range(16_000) if slot % 3}
    assert segments._strips(Rendered(text), (*contents, "\ue00016000\ue001"))[2]


def test_a_template_that_is_slow_for_one_row_rejects_that_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "Sandbox", partial(Sandbox, seconds=0.4))
    made = templated(Chat(template=SLOW_AT_FOUR), turns(2), turns(4), turns(3))
    assert isinstance(made, LabelResult)
    assert made.kept.reason.to_pylist() == ["", "template-limit", ""]
    assert made.kept.keep.to_pylist() == [True, False, True]


def test_limits_that_are_broken_again_and_again_are_the_templates_fault(
    monkeypatch: pytest.MonkeyPatch, renders: list[Sandbox]
) -> None:
    monkeypatch.setattr(sandbox, "_MOST_OVER", 2)
    renders.append(asked := Sandbox(SLOW_AT_FOUR, seconds=0.1))
    slow, quick = (Conversation.of(["user"] * count, ["hi"] * count) for count in (4, 1))
    assert [one.fault for one in asked.render([slow, quick, slow])] == ["template-limit", "", "template-limit"]
    with pytest.raises(DataError, match="broke a limit") as caught:
        asked.render([slow])
    assert caught.value.slug == "template-limit" and caught.value.found.startswith("3 conversations over a limit")
    assert [one.text for one in asked.render([quick])] == ["user: hi\n"], "the next use starts a new child"


def test_conversations_are_made_and_sent_in_bounded_batches(
    monkeypatch: pytest.MonkeyPatch, renders: list[Sandbox]
) -> None:
    """Of ten conversations of 1 kB, at most those of one batch (3 kB) have been made when the first answer is there."""
    monkeypatch.setattr(sandbox, "_BATCH_BYTES", 2_500)
    monkeypatch.setattr(sandbox, "LARGEST", 5_000)
    renders.append(asked := Sandbox("{{ messages[0].content }}"))
    made: list[int] = []

    def conversations() -> Iterator[Conversation]:
        for number in range(10):
            made.append(number)
            yield Conversation.of(("user",), (str(number) * (9_000 if number == 4 else 1_000),))

    answers = asked.stream(conversations())
    assert next(answers).text == "0" * 1_000 and made == [0, 1, 2]
    rest = list(answers)
    assert [one.text[:1] for one in rest] == ["1", "2", "3", "", "5", "6", "7", "8", "9"]
    assert rest[3].fault == "template-limit" and "over 5,000" in rest[3].detail


def test_the_size_of_beginnings_is_their_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Conversation.of(("user", "assistant", "user", "assistant"), ("a" * 5, "b" * 7, "c", "d" * 11))
    named = [sum(len(turn["content"]) + 64 for turn in one.messages) for one in learnt.beginnings(whole, [1, 3])]
    assert named == [69, 140, 205, 280]
    monkeypatch.setattr(learnt, "MOST_READ", sum(named) + 1)
    assert learnt.too_many(whole, [1, 3]) == ""
    monkeypatch.setattr(learnt, "MOST_READ", sum(named))
    assert learnt.too_many(whole, [1, 3]).startswith("2 of 4 turns are learnt: 694 characters to render")


@pytest.mark.parametrize("tools", [None, "call 1"], ids=["segments", "aligned"])
def test_a_beginning_that_is_over_a_limit_leaves_no_mask_to_guess(
    tools: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, slow = Sandbox.stream, [True]

    def once(self: Sandbox, conversations: Iterable[Conversation]) -> Iterator[Rendered]:
        for one, text in zip(*tee_streamed(self, conversations), strict=True):
            is_slow = one.open and len(one.messages) == 1 and slow
            yield Rendered(fault="template-limit", detail="slow") if is_slow else text

    def tee_streamed(self: Sandbox, conversations: Iterable[Conversation]) -> tuple[list[Conversation], list[Rendered]]:
        given = list(conversations)
        return given, list(stream(self, given))

    monkeypatch.setattr(Sandbox, "stream", once)
    op, rows = Chat(template="chatml"), (turns(2, tools), turns(2, tools))
    made = templated(op, *rows)
    assert isinstance(made, LabelResult)
    assert made.kept.reason.to_pylist() == ["template-limit", "template-limit"]
    slow.clear()
    later = templated(op, *rows)
    assert not isinstance(later, LabelResult), "a moment that is over refuses nothing"
    assert any(piece["trained"] for piece in later["pieces"].to_pylist()[0])
