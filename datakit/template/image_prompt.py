"""template.image_prompt: the text that an image is drawn of, the last turn of a conversation as it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import flat, starts
from datakit.op import Context, Label
from schemas import PROMPTS, Column, Schema
from schemas.rows.images import IMAGE_PROMPT


@dataclass(frozen=True, kw_only=True)
class ImagePrompt(Label):
    """Adds `column`, which models of images read as `prompt`: the content of the last turn, without any template."""

    name: ClassVar[str] = "template.image_prompt"
    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    column: str = IMAGE_PROMPT.name
    """Name of the new column."""

    @property
    def takes(self) -> Schema:
        """The conversation whose last turn is read."""
        return PROMPTS.selecting("messages")

    @property
    def adds(self) -> tuple[Column, ...]:
        """The text, under the name that was asked for."""
        return (replace(IMAGE_PROMPT, name=self.column),)

    def label(self, rows: pa.Table, ctx: Context) -> dict[str, pa.Array]:
        """The last content of each row; empty where a row has none."""
        messages = flat(rows["messages"])
        offsets, contents = starts(messages), messages.flatten().field("content")
        empty = pa.array(offsets[1:] == offsets[:-1])
        last = pc.if_else(empty, pa.scalar(None, pa.int64()), pa.array(offsets[1:] - 1, pa.int64()))
        return {self.column: pc.fill_null(contents.take(last), "")}
