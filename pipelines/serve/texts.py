"""What a served model reads and says: conversations by its chat template, texts as they are written, tokens as text."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.op import Context
from datakit.template import Rendering
from datakit.templating.ops import renderer_of
from datakit.templating.render import Renderer
from datakit.tokenizers.tokenizer import Tokenizer
from schemas import MESSAGES, PIECES
from schemas.errors import ConfigError, DataError

Ints = npt.NDArray[np.int64]

_HELLO = [{"role": "user", "content": "Hello."}]


class Texts:
    """The texts of one model, from any thread: the template's child process renders one conversation at a time."""

    def __init__(self, tokenizer: Tokenizer, rendering: Rendering) -> None:
        self.tokenizer, self.rendering = tokenizer, rendering
        self._one_at_a_time = threading.Lock()

    @property
    def has_template(self) -> bool:
        """Whether conversations can be rendered."""
        return self.rendering.template is not None or self.tokenizer.chat_template is not None

    def check(self) -> None:
        """Render a short conversation; `ConfigError` or `DataError` where the template cannot."""
        if self.has_template:
            self.conversation(_HELLO, answer=True)

    def check_template(self) -> None:
        """The same of a model that reads conversations: `ConfigError` where it has no template."""
        self.conversation(_HELLO, answer=True)

    def conversation(self, messages: Sequence[Mapping[str, Any]], tools: object = None, *, answer: bool) -> Ints:
        """Token ids of a conversation: with an open `answer` behind it, or closed as a reward model reads it. Spellings
        of control tokens in contents stay text. `DataError` for what the template refuses.
        """
        try:
            rows = pa.array([[*map(_turn, messages)]], MESSAGES)
        except UnicodeEncodeError as fault:
            raise DataError("bad-conversation", "a turn is no text: bytes of it are not UTF-8") from fault
        offered = None if not tools else pa.array([json.dumps(tools)], pa.string())
        with self._one_at_a_time:
            made = self._renderer.pieces(rows, tools=offered, generation=answer, last=True)
        if (reason := made.reason[0].as_py()) is not None:
            raise DataError("bad-conversation", f"the chat template refuses it: {made.detail[0].as_py() or reason}")
        return self._ids(made.pieces)

    def text(self, text: str) -> Ints:
        """Token ids of a text as it stands: nothing is put around it, and spellings of control tokens are these."""
        piece = {"text": text, "special": True, "trained": False}
        return self._ids(pa.array([[piece]], PIECES))

    def token(self, number: int) -> str:
        """The text of one token."""
        return self._token(int(number))

    @functools.cached_property
    def _renderer(self) -> Renderer:
        if not self.has_template:
            raise ConfigError(
                "no-template",
                "the model's tokenizer has no chat template",
                expected="prompts as text or tokens, at /v1/completions",
                kept="nothing was answered",
                next="--template plain",
            )
        return renderer_of(self.rendering, Context(resources={"tokenizer": self.tokenizer}))

    @functools.cached_property
    def _token(self) -> Any:
        return functools.lru_cache(1 << 16)(lambda number: self.tokenizer.decode([[number]], control=True)[0])

    def _ids(self, pieces: pa.Array) -> Ints:
        return self.tokenizer.encode_pieces(pieces).ids.astype(np.int64)


def _turn(message: Mapping[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    return {
        "role": message["role"],
        "content": message["content"],
        "tool_calls": json.dumps(calls, separators=(",", ":")) if calls else None,
        "tool_call_id": message.get("tool_call_id"),
        "reasoning": message.get("reasoning_content"),
    }
