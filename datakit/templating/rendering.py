"""How conversations become text: one frozen value, carried whole from a command line or a configuration to the
operations that template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date as calendar_date
from typing import Any

from datakit.templating.named import TEMPLATES
from schemas.canonical import canonical
from schemas.chat_template import ChatTemplate
from schemas.errors import ConfigError, printable
from schemas.nearest import nearest

_ROWS_OWN = ("messages", "tools", "add_generation_prompt")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """`template` is a name (`plain`, `text`, `chatml`, `llama3`, `extra_id`), Jinja source, or None for the
    tokenizer's own; `options` are variables that it reads (`{"enable_thinking": false}`), as JSON; `date` (YYYY-MM-DD)
    is what `strftime_now` writes; `stop` are texts that end an answer, beside the end token.

    `ConfigError` for a template that there is not, an option that is no JSON or that rows decide, a date that there is
    not.
    """

    template: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    date: str | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_template("template", self.template)
        object.__setattr__(self, "options", _plain_options(self.options))
        if self.date is not None and not _is_date(self.date):
            raise ConfigError(
                "bad-setting",
                f"date: {printable(self.date)} is not a date",
                expected="YYYY-MM-DD, such as 2025-01-31",
                kept="nothing was started",
                next="--date 2025-01-31",
            )

    @property
    def settings(self) -> dict[str, Any]:
        """What the operations that template take."""
        return {"template": self.template, "options": self.options, "date": self.date}

    @property
    def chat_template(self) -> ChatTemplate:
        """What is remembered of it with the rows and the checkpoints that learn from them; a date is not."""
        source = None if self.template is None else TEMPLATES.get(self.template, self.template)
        return ChatTemplate(self.template, source, self.options)

    def for_model(self, learnt: ChatTemplate) -> Rendering:
        """For a model that has `learnt` this template: its template where none is set here, and its options where that
        is the template.
        """
        if self.template is not None and self.template != learnt.name:
            return self
        return replace(self, template=learnt.name, options={**learnt.options, **self.options})

    def over(self, other: Rendering) -> Rendering:
        """What is set here, and what `other` sets besides."""
        return Rendering(
            template=self.template or other.template,
            options={**other.options, **self.options},
            date=self.date or other.date,
            stop=self.stop or other.stop,
        )


def check_template(who: str, template: str | None) -> None:
    """`ConfigError` for a word that is neither a template's name nor Jinja source."""
    if template is not None and template not in TEMPLATES and "{" not in template:
        raise ConfigError(
            "unknown-template",
            f"{who}: there is no template {printable(template)}",
            expected=", ".join(TEMPLATES),
            kept="nothing was started",
            wrong=(template,),
            nearest=nearest(template, TEMPLATES),
        )


def _plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    why = ""
    try:
        plain: dict[str, Any] = json.loads(canonical(options))
    except (ValueError, TypeError, RecursionError) as fault:
        plain, why = {}, f"no JSON: {printable(fault)}"
    odd = [name for name in plain if not name.isidentifier()]
    owned = [name for name in plain if name in _ROWS_OWN]
    if odd:
        why = f"{printable(odd[0])} is no variable's name"
    elif owned:
        why = f"{owned[0]} comes from the rows"
    if why:
        raise ConfigError(
            "bad-setting",
            f"template options: {why}",
            expected='variables that the template reads, such as {"enable_thinking": false}',
            kept="nothing was started",
        )
    return plain


def _is_date(text: str) -> bool:
    try:
        return bool(_DATE.fullmatch(text)) and calendar_date.fromisoformat(text) is not None
    except ValueError:
        return False
