"""NeMo-Aligner's chats with labels: text and mask against its rules written token by token, and its own file's rows."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.columns.learnt_ends import WITHOUT_END
from datakit.io import Jsonl
from datakit.op import Context, LabelResult
from datakit.run.resource import Resource
from datakit.template import Chat, LabelledChat
from datakit.templating.labelled import ChatMarks
from datakit.templating.named import extra_id
from datakit.tokenize import Mask
from schemas import CHATS, MESSAGES
from schemas.end_tokens import TurnEnd
from tests.datakit.fakes import ADDED, BOS, CALL, EOS, USER, Example, letters

EXAMPLES = [Example(LabelledChat(), (CHATS.example(12),), {"tokenizer": Resource("letters", letters)})]
MARKS = ChatMarks(system_turn_start=BOS, turn_start=USER, label_start=CALL)
KINDS = (None, "VALUE_TO_TEXT", "TEXT_TO_VALUE")


def nemo_row(row: dict[str, Any]) -> tuple[list[str], list[int]]:
    """Tokens (a letter or a mark each) and mask of a row by NeMo-Aligner's rules, one after the other."""
    kind, turns = row["label_type"], row["messages"]
    labels = row["labels"] or [None] * len(turns)
    system = turns[0]["content"] if turns[0]["role"] == "system" else ""
    tokens = [BOS, *f"System\n{system}\n"]
    mask = [0] * len(tokens)
    first = int(turns[0]["role"] == "system")
    for at, (turn, label) in enumerate(zip(turns[first:], labels[first:], strict=True)):
        name, value = [USER, *f"{turn['role'].capitalize()}\n"], [*turn["content"], "\n"]
        mark = [CALL, *label, "\n"] if label is not None and kind else []
        asked = turn["role"] == "user"
        if kind == "TEXT_TO_VALUE":
            whole = [*name, *value, *mark]
            own = [0] * (len(name) + len(value)) + [0] * min(len(mark), 1) + [1] * max(len(mark) - 1, 0)
        else:
            whole = [*name, *mark, *value]
            own = [0] * (len(name) + len(mark)) + [1] * len(value)
        if at == 0 and kind != "TEXT_TO_VALUE":
            own = [0] * len(whole)
        elif asked:
            own = [int(at > 1 or (at == 1 and kind == "TEXT_TO_VALUE"))] + [0] * (len(whole) - 1)
        tokens, mask = tokens + whole, mask + own
    if turns[-1]["role"] != "user":
        tokens, mask = [*tokens, USER], [*mask, 1]
    return tokens, mask


def table(rows: list[dict[str, Any]]) -> pa.Table:
    names = {"messages": MESSAGES, "labels": pa.list_(pa.string()), "label_type": pa.string()}
    return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in names.items()})


def masked(rows: list[dict[str, Any]], **settings: Any) -> list[tuple[list[str], list[int]]]:
    """Tokens and mask as the operation and the tokenizer make them."""
    tokenizer: Any = letters()
    made = LabelledChat(marks=MARKS, **settings).label(table(rows), Context(resources={"tokenizer": tokenizer}))
    assert not isinstance(made, LabelResult)
    encoded = tokenizer.encode_pieces(made["pieces"])
    names = {tokenizer.id_of(mark): mark for mark in (BOS, USER, CALL, EOS)}
    spans = list(zip(encoded.offsets[:-1].tolist(), encoded.offsets[1:].tolist(), strict=True))
    texts = [[names.get(i) or tokenizer.decode([[i]])[0] for i in encoded.ids[a:b].tolist()] for a, b in spans]
    assert ["".join(text) for text in texts] == made["text"].to_pylist()
    return [(text, encoded.trained[a:b].astype(int).tolist()) for text, (a, b) in zip(texts, spans, strict=True)]


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def drawn(draw: random.Random, kind: str | None) -> dict[str, Any]:
    """A conversation with system turn or without, in which every assistant's turn has a label where labels are learnt
    (NeMo-Aligner learns the text of those that have none).
    """
    turns = [turn("system", "be kind")] if draw.random() < 0.5 else []
    speakers = ["user", "assistant"] * draw.randrange(1, 4)
    speakers = speakers[1:] if len(speakers) > 2 and kind == "TEXT_TO_VALUE" and draw.random() < 0.3 else speakers
    speakers = [*speakers, "user"] if draw.random() < 0.3 else speakers
    labels: list[str | None] = [None] * len(turns)
    for role in speakers:
        turns.append(turn(role, "".join(draw.choice("ab c\n") for _ in range(draw.randrange(1, 6)))))
        always = kind == "TEXT_TO_VALUE"
        labels.append(
            f"quality:{draw.randrange(5)}" if role == "assistant" and (always or draw.random() < 0.6) else None
        )
    return {"messages": turns, "labels": labels if any(labels) else None, "label_type": kind}


def test_text_and_mask_follow_nemo_aligners_rules() -> None:
    draw = random.Random(11)
    rows = [drawn(draw, KINDS[at % 3]) for at in range(300)]
    assert masked(rows) == [nemo_row(row) for row in rows]


def test_a_row_by_hand() -> None:
    row = {
        "messages": [turn("user", "q"), turn("assistant", "a"), turn("user", "r"), turn("assistant", "b")],
        "labels": [None, "x:1", None, None], "label_type": "VALUE_TO_TEXT",
    }  # fmt: skip
    ((text, mask),) = masked([row])
    expected = "".join(f"[{token}]" if learnt else token for token, learnt in zip(text, mask, strict=True))
    head = f"{BOS}System\n\n{USER}User\nq\n"
    assert expected == f"{head}{USER}Assistant\n{CALL}x:1\n[a][\n][{USER}]User\nr\n{USER}Assistant\n[b][\n][{USER}]"
    ((text, mask),) = masked([{**row, "label_type": "TEXT_TO_VALUE"}])
    expected = "".join(f"[{token}]" if learnt else token for token, learnt in zip(text, mask, strict=True))
    learnt = f"{USER}Assistant\na\n{CALL}[x][:][1][\n][{USER}]User\nr\n"
    assert expected == f"{head}{learnt}{USER}Assistant\nb\n{USER}", "a turn without a label is not learnt"


def test_the_last_turn_alone_and_turns_of_weight_0() -> None:
    turns = [turn("user", "q"), turn("assistant", "a"), turn("user", "r"), turn("assistant", "b")]
    row = {"messages": turns, "labels": None, "label_type": None}
    ((text, mask),) = masked([row], learn="last")
    assert [token for token, learnt in zip(text, mask, strict=True) if learnt] == ["b", "\n", USER]
    silent = {**row, "messages": [*turns[:3], turn("assistant", "b", weight=0.0)]}
    ((text, mask),) = masked([silent])
    assert [token for token, learnt in zip(text, mask, strict=True) if learnt] == ["a", "\n", USER]


def test_rows_that_do_not_fit_go_with_a_reason() -> None:
    good = {
        "messages": [turn("user", "q"), turn("assistant", "a")],
        "labels": [None, "x"],
        "label_type": "VALUE_TO_TEXT",
    }
    half = [turn("user", "q"), turn("assistant", "a", weight=0.5)]
    rows = [good, {**good, "labels": ["x"]}, {**good, "label_type": "BOTH"}, {**good, "messages": half}]
    made = LabelledChat(marks=MARKS).label(table(rows), Context(resources={"tokenizer": letters()}))
    assert isinstance(made, LabelResult)
    assert made.kept.keep.to_pylist() == [True, False, False, False]
    assert made.kept.reason.to_pylist()[1:] == ["labels-are-not-one-a-turn", "unknown-label-type", "fractional-weight"]


def test_without_labels_it_is_the_template_of_that_name(shared_data: Path, tmp_path: Path) -> None:
    """NeMo-Aligner's own chats: text and trained pieces are those of `template.chat` with `extra_id`."""
    path = shared_data / "nemo-aligner/functional/dummy-sft.jsonl"
    chats = apply(Jsonl(files=(str(path),), format="chats"), [], str(tmp_path / "chats"))
    tokenizer = {"tokenizer": Resource("letters", letters)}
    mine = apply(LabelledChat(), [chats], str(tmp_path / "mine"), resources=tokenizer)
    plain = apply(Chat(template="extra_id"), [chats], str(tmp_path / "plain"), resources=tokenizer)
    assert mine.read(["text"]) == plain.read(["text"]) and mine.facts == plain.facts
    masks = [apply(Mask(id_column="chat_id"), [d], d.url + "-m", resources=tokenizer).read() for d in (mine, plain)]
    assert masks[0]["loss_mask"] == masks[1]["loss_mask"]


@pytest.mark.parametrize(
    ("control", "end"),
    [(ADDED, TurnEnd((), ("\n<extra_id_1>",))), ((*ADDED, "<extra_id_1>"), TurnEnd(("<extra_id_1>",)))],
)
def test_the_turn_start_behind_an_answer_is_its_end_token_or_not(
    tmp_path: Path, control: tuple[str, ...], end: TurnEnd
) -> None:
    """Of three rows the last learns nothing, whether the stop sign is one token or many, of two pieces."""
    chats = [
        {
            "conversations": [
                {"from": name, "value": text} for name, text in zip(("User", "Assistant"), "qa", strict=True)
            ]
        }
        for _ in range(3)
    ]
    chats[1] |= {"type": "TEXT_TO_VALUE"}
    chats[1]["conversations"][1] |= {"label": "quality:4"}
    chats[2]["conversations"] = chats[2]["conversations"][1:] + chats[2]["conversations"][:1]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"system": "", "mask": "User", **row}) + "\n" for row in chats))
    rows = apply(Jsonl(files=(str(path),), format="chats"), [], str(tmp_path / "chats"))
    assert rows.num_rows == 3
    resources = {"tokenizer": Resource("letters", functools.partial(letters, None, control))}
    texts = apply(LabelledChat(), [rows], str(tmp_path / "texts"), resources=resources)
    assert TurnEnd.of(texts.facts) == end and texts.stats["counts"][WITHOUT_END] == 1
    lines = LabelledChat().notes(texts.manifest)
    assert "in 1 of 3 rows (33%)" in lines[0] and len(lines) == 1 + len(end.texts)
    assert not end.texts or lines[1].endswith("answers end at the text \\n<extra_id_1>")
    mask = Mask(id_column="chat_id")
    tokens = apply(mask, [texts], str(tmp_path / "tokens"), resources=resources, max_rejected=1)
    assert tokens.num_rows == 2 and not mask.notes(tokens.manifest)


@pytest.mark.parametrize("end", ["\n", "'\\{{", "\x00"])
def test_marks_of_ones_own_stand_in_the_template_too(end: str) -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    template = ImmutableSandboxedEnvironment().from_string(extra_id(end_of_turn=end))
    text = template.render(messages=[turn("user", "q"), turn("assistant", "a")])
    assert text == f"<extra_id_0>System\n{end}<extra_id_1>User\nq{end}<extra_id_1>Assistant\na{end}<extra_id_1>"


@pytest.mark.parametrize(
    ("mask", "names"), [("Assistant", ("User", "Assistant")), ("Human", ("Human", "Bot")), ("A", ("A", "B"))]
)
def test_turns_stand_under_the_names_of_the_file_and_mask_says_who_is_not_learnt(
    mask: str, names: tuple[str, str], tmp_path: Path
) -> None:
    """Against NeMo-Aligner's rule: all but the first turn and those of `mask` are learnt, and the turn start behind."""
    turns = [{"from": names[at % 2], "value": letter} for at, letter in enumerate("qarb")]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"system": "s", "conversations": turns, "mask": mask}) + "\n")
    chats = apply(Jsonl(files=(str(tmp_path / "rows.jsonl"),), format="chats"), [], str(tmp_path / "chats"))
    made = LabelledChat().label(chats.read(), Context(resources={"tokenizer": letters()}))
    assert not isinstance(made, LabelResult)
    pieces = made["pieces"].to_pylist()[0]
    text = "".join(f"[{piece['text']}]" if piece["trained"] else piece["text"] for piece in pieces)
    if mask == "Assistant":
        middle = "<extra_id_1>Assistant\na\n<extra_id_1>User\n[r][\n][<extra_id_1>]Assistant\nb\n"
    else:
        middle = (
            f"<extra_id_1>{names[1]}\n[a][\n][<extra_id_1>]{names[0]}\nr\n<extra_id_1>{names[1]}\n[b][\n][<extra_id_1>]"
        )
    assert text == f"<extra_id_0>System\ns\n<extra_id_1>{names[0]}\nq\n{middle}"


def test_a_system_turn_among_the_turns_is_refused(tmp_path: Path) -> None:
    turns = [{"from": name, "value": "x"} for name in ("User", "System", "Assistant")]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"conversations": turns, "mask": "User"}) + "\n")
    read = Jsonl(files=(str(tmp_path / "rows.jsonl"),), format="chats")
    chats = apply(read, [], str(tmp_path / "chats"), max_rejected=1)
    assert chats.read_rejected()["reason"].to_pylist() == ["system-turn-inside"]
