"""Templates by name, as `docs/config.md` shows them."""

from __future__ import annotations

import re
from pathlib import Path

from jinja2 import Environment

from datakit.templating.named import TEMPLATES

PAGE = Path(__file__).parents[3] / "docs" / "config.md"
TURNS = [{"role": "user", "content": "What is 2 + 3?"}, {"role": "assistant", "content": "It is 5."}]


def test_the_page_shows_what_each_writes() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    shown = {name: text.replace("\\|", "|").replace("\\n", "\n") for name, text in rows}
    marks = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": False}
    for name, source in TEMPLATES.items():
        assert shown[name] == Environment().from_string(source).render(messages=TURNS, **marks), name
