"""Preferences in one record: a question, the better and the worse answer, as texts, messages or whole
transcripts.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import (
    Faults,
    blank,
    concatenated,
    flat,
    grammar,
    head,
    messages,
    of_rows,
    of_turns,
    starts,
    with_system,
)
from datakit.formats.dialogues import Turns, turns_of
from datakit.formats.forms.completions import DIALOGUES, INSTRUCTION, answer, bare, instructed
from datakit.formats.forms.form import SYSTEM, TOOLS, Built, Form
from datakit.formats.forms.prompts import conversation
from datakit.formats.ids import content_ids
from datakit.formats.keys import ANSWER, NUMBER, QUESTION, TEXT, TURNS, Key, Shape
from schemas import PREFERENCES

REWARDS = (
    Key("chosen_reward", NUMBER, required=False, aliases=("score_chosen", "chosen_score")),
    Key("rejected_reward", NUMBER, required=False, aliases=("score_rejected", "rejected_score")),
)
_SIDES = ("chosen", "rejected")


def compared(columns: dict[str, pa.Array], raw: pa.Table | None, answers: list[pa.Array], faults: Faults) -> Built:
    """A preference of `columns` (the question) and the two answers, with the faults every preference may have."""
    columns = {**columns, **dict(zip(_SIDES, answers, strict=True))}
    if raw is not None:
        columns |= {key.name: flat(raw[key.name]) for key in REWARDS if key.name in raw.column_names}
    same = np.asarray(pc.equal(*answers))
    empty = [(blank(texts), f"blank-{side}") for side, texts in zip(_SIDES, answers, strict=True)]
    return Built(columns, [*faults, *empty, (same, "same-answers")])


def _preferences(raw: pa.Table, dialogue: str) -> Built:
    """Each side an answer, or a whole conversation whose beginning is the question, or goes on from it."""
    prompt = conversation(raw.drop_columns(["system"]), "prompt", dialogue)
    faults = list(prompt.faults)
    befores, answers = [], []
    for side in _SIDES:
        turns, own = of_turns(flat(raw[side]))
        built = answer(*head(turns))
        befores.append(built.columns["messages"])
        answers.append(built.columns["response"])
        faults += [*own, *built.faults]
    faults.append((np.asarray(pc.not_equal(*map(content_ids, befores))), "prompts-differ"))
    turns, unlike = _joined(prompt.columns["messages"], befores[0])
    turns = with_system(flat(raw["system"]), turns)
    answers = [bare(texts, dialogue) for texts in answers]
    faults += [(unlike, "prompts-differ"), *grammar(turns, ends_with_user=True)]
    return compared({"messages": turns, "tools": prompt.columns["tools"]}, raw, answers, faults)


def _joined(prompts: pa.Array, befores: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The question of each row: `prompts`, and behind it what stands before the answers, unless that begins with the
    same turns (a system turn aside); and the rows whose question is asked twice, in other words.
    """
    given, own = starts(prompts), starts(befores)
    unlike = np.zeros(len(prompts), bool)
    whole = np.zeros(len(prompts), bool)
    for row in np.flatnonzero((np.diff(given) > 0) & (np.diff(own) > 0)).tolist():
        opening, turns = (
            [(turn["role"], turn["content"]) for turn in column[row].as_py()] for column in (prompts, befores)
        )
        rest = turns[1:] if turns[0][0] == "system" and opening[0][0] != "system" else turns
        whole[row] = rest[: len(opening)] == opening
        unlike[row] = not whole[row] and opening[-1][0] == rest[0][0] == "user"
    if whole.any():
        lengths = np.where(whole, 0, np.diff(given))
        kept = np.repeat(~whole, np.diff(given))
        inner = prompts.flatten().filter(pa.array(kept))
        prompts = messages(np.concatenate([[0], np.cumsum(lengths)]), inner)
    return concatenated(prompts, befores), unlike


def _alpaca(raw: pa.Table, dialogue: str) -> Built:
    built = instructed(raw)
    return compared(built.columns, raw, [flat(raw[side]) for side in _SIDES], built.faults)


def shared_prefix(chosen: list[Turns | None], rejected: list[Turns | None]) -> Built:
    """Preferences of two transcripts that are the same but for their last assistant turn."""
    rows: list[Turns] = []
    answers: tuple[list[str], list[str]] = ([], [])
    unreadable, differ = np.zeros(len(chosen), bool), np.zeros(len(chosen), bool)
    for at, pair in enumerate(zip(chosen, rejected, strict=True)):
        one, other = ((side or [("assistant", "")]) for side in pair)
        unreadable[at] = None in pair or one[-1][0] != "assistant" or other[-1][0] != "assistant"
        differ[at] = one[:-1] != other[:-1]
        rows.append(one[:-1])
        answers[0].append(one[-1][1])
        answers[1].append(other[-1][1])
    turns = of_rows(rows)
    faults = [
        (unreadable, "not-a-transcript"),
        (differ, "prompts-differ"),
        *grammar(turns, ends_with_user=True),
    ]
    return compared({"messages": turns}, None, [pa.array(texts, pa.string()) for texts in answers], faults)


def _transcripts(raw: pa.Table, dialogue: str) -> Built:
    return shared_prefix(*(turns_of(flat(raw[side]), dialogue) for side in _SIDES))


_ALIASES = {side: (f"{side}_response", f"{side}_messages") for side in _SIDES}


def _two(shape: Shape) -> tuple[Key, ...]:
    return tuple(Key(side, shape, aliases=_ALIASES[side]) for side in _SIDES)


_SHAPES = "each a text, a message or a list of messages"

FORMS = (
    Form(
        "preferences",
        f"{{prompt, chosen, rejected, chosen_reward?, rejected_reward?, system?, tools?}}; {_SHAPES}",
        (Key("prompt", QUESTION), *_two(ANSWER), *REWARDS, SYSTEM, TOOLS),
        PREFERENCES,
        _preferences,
        dialogues=DIALOGUES,
    ),
    Form(
        "preference_messages",
        "{prompt: [{role, content}, ...], chosen: {role, content}, rejected: likewise, ...}",
        (Key("prompt", QUESTION, aliases=("messages",)), *_two(ANSWER), *REWARDS, SYSTEM, TOOLS),
        PREFERENCES,
        _preferences,
    ),
    Form(
        "preference_chats",
        "{prompt?, chosen: [{role, content}, ...], rejected: likewise, score_chosen?, score_rejected?, ...}",
        (Key("prompt", QUESTION, required=False), *_two(TURNS), *REWARDS, SYSTEM, TOOLS),
        PREFERENCES,
        _preferences,
    ),
    Form(
        "sharegpt_preferences",
        "{conversations: [{from, value}, ...], chosen: {from, value}, rejected: {from, value}, system?, tools?}",
        (Key("prompt", QUESTION, aliases=("conversations",)), *_two(ANSWER), *REWARDS, SYSTEM, TOOLS),
        PREFERENCES,
        _preferences,
    ),
    Form(
        "alpaca_preferences",
        "{instruction, input?, chosen, rejected, system?, history?, tools?}",
        (*INSTRUCTION, *_two(TEXT)),
        PREFERENCES,
        _alpaca,
    ),
    Form(
        "hh",
        "{chosen, rejected}: two transcripts with the same beginning",
        (Key("chosen", TEXT), Key("rejected", TEXT)),
        PREFERENCES,
        _transcripts,
        dialogues=DIALOGUES,
        usual="hh",
    ),
)
