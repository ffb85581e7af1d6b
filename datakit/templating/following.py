"""What a template writes between an answer that was drawn and the next one: a turn of somebody else, and the header of
an answer.

It is written behind a question and an answer of one word each, so that it is the same whatever was answered before, and
however a template writes answers that lie back (without what was thought, say): tokens that were drawn stay as they
are, and these follow them. How an answer ends was drawn with it, and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from datakit.templating.ending import control_of, next_end
from datakit.templating.render import Renderer
from schemas import MESSAGES, PIECES

_ASKED, _ANSWERED = "question", "answered"


@dataclass(frozen=True)
class Following:
    """Tokens behind an answer, and their text; `fault` says why there are none (empty: there are)."""

    ids: tuple[int, ...]
    text: str
    fault: str = ""


def following(renderer: Renderer, tokenizer: Any, turns: Sequence[Mapping[str, str]]) -> list[Following]:
    """What stands behind an answer that ended, for each of `turns` (role, content), up to where the next answer
    begins.
    """
    before = [{"role": "user", "content": _ASKED}, {"role": "assistant", "content": _ANSWERED}]
    talks = pa.array([[*before, {name: turn[name] for name in ("role", "content")}] for turn in turns], MESSAGES)
    done = renderer.pieces(talks, generation=True)
    whys = [" ".join(filter(None, pair)) for pair in zip(done.reason.to_pylist(), done.detail.to_pylist(), strict=True)]
    parts = [[] if why else _behind(renderer, row) for row, why in zip(done.pieces.to_pylist(), whys, strict=True)]
    encoded = tokenizer.encode_pieces(pa.array(parts, PIECES))
    made = []
    for row, (part, why) in enumerate(zip(parts, whys, strict=True)):
        end = part[0]["text"] if part else ""
        ids = encoded.ids[encoded.offsets[row] + bool(end) : encoded.offsets[row + 1]]
        fault = why or ("" if part else "the template writes no answer that a turn could follow")
        made.append(Following(tuple(ids.tolist()), "".join(one["text"] for one in part[1:]), fault))
    return made


def _behind(renderer: Renderer, pieces: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Pieces behind the answer, the first of them the token that ends it, without text where it ends by none: the
    tokens of what follows depend on it.
    """
    place = next((at for at, one in enumerate(pieces) if not one["special"] and one["text"] == _ANSWERED), None)
    if place is None:
        return []
    behind, control = pieces[place + 1 :], control_of(renderer.tokens)
    text = "".join(one["text"] for one in behind)
    cut = next_end(text, renderer.turn_end, control)
    end = next((token for token in renderer.turn_end.tokens if text[:cut].endswith(token)), "")
    left = [{"text": end, "special": True, "trained": False}]
    for one in behind:
        left.append({**one, "text": one["text"][cut:], "trained": False})
        cut = max(0, cut - len(one["text"]))
    return left
