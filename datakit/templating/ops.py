"""What operations share that turn conversations into text: settings of their own for it, and what is remembered of the
text that they write.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from datakit.op import Context, Label
from datakit.templating.named import TEMPLATES
from datakit.templating.render import Renderer, renderer
from datakit.templating.rendering import Rendering
from schemas.chat_template import FACT
from schemas.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Templating(Label):
    """Base of the operations whose template can be set: `template`, `options` and `date` are those of `Rendering`."""

    needs: ClassVar[tuple[str, ...]] = ("tokenizer",)

    template: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    date: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", self.rendering.options)

    @property
    def rendering(self) -> Rendering:
        """The three as one value."""
        return Rendering(template=self.template, options=self.options, date=self.date)


@dataclass(frozen=True, kw_only=True)
class WritesText(Label):
    """Base of the operations that write text: their result says in which template, and how that ends a turn."""

    needs: ClassVar[tuple[str, ...]] = ("tokenizer",)
    max_rejected: ClassVar[int] = 0
    replaced_facts: ClassVar[frozenset[str]] = frozenset({FACT})

    @property
    @abstractmethod
    def rendering(self) -> Rendering:
        """The template of the text."""

    def facts(self, ctx: Context) -> Mapping[str, Any]:
        """Which template it was, and how that ends an assistant's turn."""
        return {**renderer_of(self.rendering, ctx).turn_end.facts, **self.rendering.chat_template.facts}


def renderer_of(rendering: Rendering, ctx: Context) -> Renderer:
    """The renderer for the context's tokenizer; `ConfigError` if neither the setting nor the tokenizer has a
    template.
    """
    tokenizer: Any = ctx.resources.get("tokenizer")
    template = rendering.template
    source = TEMPLATES.get(template, template) if template is not None else getattr(tokenizer, "chat_template", None)
    if source is None:
        message = "the tokenizer has no chat template and none was given"
        raise ConfigError(
            "no-template",
            message,
            expected=", ".join(TEMPLATES),
            next="--template text",
        )
    names = ("bos_token", "eos_token", "pad_token")
    values = {name: getattr(tokenizer, name, None) or "" for name in names}
    return renderer(source, values, rendering.options, rendering.date, getattr(tokenizer, "added", ()))
