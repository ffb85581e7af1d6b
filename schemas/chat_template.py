"""The chat template that rows were written with, where it was not simply their tokenizer's own: a fact of the rows, and
of a checkpoint that learnt from them.

The fact `template` of a manifest is a list where rows that were written differently were mixed; then nothing is
remembered. Rows of the tokenizer's own template, without options, have no such fact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas import end_tokens

FACT = "template"
"""The fact's name in a manifest."""


@dataclass(frozen=True)
class ChatTemplate:
    """`name` is the template as it was given (a name or Jinja source; None: the tokenizer's own), `source` its Jinja
    source, `options` the variables that it was given.
    """

    name: str | None = None
    source: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(facts: Mapping[str, Any]) -> ChatTemplate:
        """What a manifest's facts say; the tokenizer's own where they say nothing, or several things."""
        value = facts.get(FACT)
        value = value if isinstance(value, dict) else {}
        name, source, options = value.get("name"), value.get("source"), value.get("options")
        if not (isinstance(name, str) and isinstance(source, str)):
            name = source = None
        return ChatTemplate(name, source, options if isinstance(options, dict) else {})

    @property
    def facts(self) -> dict[str, Any]:
        """As an entry of a manifest's facts; none for the tokenizer's own without options."""
        value = {"name": self.name, "source": self.source, "options": dict(self.options)}
        return {FACT: value} if self.name is not None or self.options else {}

    def jinja(self, own: str | None) -> str | None:
        """Source that writes the same without being given the options: `own` is the tokenizer's template. A variable
        that is given all the same wins, as in Hugging Face.
        """
        source = own if self.source is None else self.source
        if source is None or not self.options:
            return source
        given = (f"{{% if {k} is not defined %}}{{% set {k} = {v!r} %}}{{% endif %}}" for k, v in self.options.items())
        return f"{''.join(given)}\n{source}"  # transformers drops the line end behind a block


def learnt(rows: Mapping[str, Any], earlier: Mapping[str, Any]) -> ChatTemplate:
    """The template of a checkpoint that learnt from rows with these facts, from a checkpoint with the facts `earlier`:
    that of the rows where a template wrote them.
    """
    return ChatTemplate.of(rows if FACT in rows or end_tokens.FACT in rows else earlier)
