"""Conversations to text, by a chat template: pieces that keep apart what the template wrote and what was
given.

Control tokens written inside a content never become control tokens: content pieces are not `special`. What an
assistant turn consists of (content and end-of-turn mark) is `trained`. With `generation` the text ends in an
open assistant header.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.io.conversations import flat, with_response
from datakit.op import Context, Kept, Label, Labelled
from datakit.template.named import TEMPLATES
from datakit.template.render import Pieces, Renderer, renderer
from schemas import MESSAGES, PIECES, Column, Schema
from schemas.errors import ConfigError, printable
from schemas.settings import suggestion


@dataclass(frozen=True, kw_only=True)
class Chat(Label):
    """Adds `pieces` and `text` (with `generation`: `pieces` and `prompt`) of `messages`, and of column
    `response` if named.

    `template` is a name (`plain`, `text`, `chatml`, `llama3`, `extra_id`), Jinja source, or None for the tokenizer's
    own. `learn`: all assistant turns, or the last. `date` (YYYY-MM-DD) is what templates that write the date
    get. Rows that the template refuses or alters are rejected.
    """

    name: ClassVar[str] = "template.chat"
    needs: ClassVar[tuple[str, ...]] = ("tokenizer",)
    max_rejected: ClassVar[int] = 0

    template: str | None = None
    response: str | None = None
    generation: bool = False
    learn: Literal["all", "last"] = "all"
    date: str | None = None
    into: str = "pieces"

    def __post_init__(self) -> None:
        check_template(self.name, self.template)
        if self.generation and self.response is not None:
            raise ConfigError("bad-setting", f"{self.name}: a prompt has no response", kept="nothing was started")

    @property
    def takes(self) -> Schema:
        """Messages, and the response where one is named."""
        columns = [Column("messages", MESSAGES, "the conversation")]
        if self.response is not None:
            columns.append(Column(self.response, pa.string(), "the answer"))
        return Schema("conversations", 1, tuple(columns))

    @property
    def adds(self) -> tuple[Column, ...]:
        """Pieces and whole text."""
        if self.generation:
            text = Column("prompt", pa.string(), "the exact text that the model reads")
        else:
            text = Column("text", pa.string(), "the exact text")
        return Column(self.into, PIECES, "the text in pieces"), text

    def label(self, rows: pa.Table, ctx: Context) -> Mapping[str, pa.Array] | Labelled:
        """Both columns."""
        turns = flat(rows["messages"])
        if self.response is not None:
            turns = with_response(turns, flat(rows[self.response]))
        done = renderer_of(self.template, self.date, ctx).pieces(turns, self.generation, self.learn)
        return labelled({self.into: done.pieces, self.adds[1].name: done.text}, done)


def check_template(who: str, template: str | None) -> None:
    """`ConfigError` for a word that is neither a template's name nor Jinja source."""
    if template is not None and template not in TEMPLATES and "{" not in template:
        told = f"{who}: there is no template {printable(template)}{suggestion(template, list(TEMPLATES))}"
        raise ConfigError("unknown-template", told, expected=", ".join(TEMPLATES), kept="nothing was started")


def renderer_of(template: str | None, date: str | None, ctx: Context) -> Renderer:
    """The renderer for the context's tokenizer; `ConfigError` if neither the setting nor the tokenizer has a
    template.
    """
    tokenizer: Any = ctx.resources.get("tokenizer")
    source = TEMPLATES.get(template, template) if template is not None else getattr(tokenizer, "chat_template", None)
    if source is None:
        told = "the tokenizer has no chat template and none was given"
        raise ConfigError(
            "no-template",
            told,
            expected=", ".join(TEMPLATES),
            next='set `template`, as in --params \'{"template": "text"}\'',
        )
    names = ("bos_token", "eos_token", "pad_token")
    values = {name: getattr(tokenizer, name, None) or "" for name in names}
    return renderer(source, values, date)


def labelled(columns: dict[str, pa.Array], *done: Pieces) -> Mapping[str, pa.Array] | Labelled:
    """The columns, and which rows go because a rendering of theirs is not kept."""
    reason = pc.coalesce(*[part.reason for part in done])
    if reason.null_count == len(reason):
        return columns
    told = next((part.told for part in done if part.told), None)
    keep = pa.array(np.asarray(reason.is_null()))
    return Labelled(columns, Kept(keep, pc.fill_null(reason, ""), threshold=printable(told) if told else None))
