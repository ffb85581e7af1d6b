"""A rubric: what a judge is asked and on which scale it answers, as a small JSON file.

    {"kind": "pairwise", "system": ["You compare two answers.", ...], "prompt": ["{conversation}", "{answers}", ...]}

`system` and `prompt` are lines. In them `{conversation}` is what was asked, `{answers}` all answers under their letters
and `{reference}` the reference answer; each is fenced, so that no answer can pass for a part of the question. How the
verdict is to be written is added behind the prompt, because a parser has to read it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from schemas.errors import ConfigError, printable
from schemas.nearest import nearest
from schemas.untrusted import exact_json

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TIE = "tie"
_SHIPPED = Path(__file__).with_name("rubrics")
_LARGEST = 1 << 20
_FIELD = re.compile(r"\{(\w+)\}")
_FIELDS = {"conversation", "answers", "reference"}
_TAKEN = {"refusal", "unparsed", "truncated", "error", "replies"}
"""Columns of verdicts that no attribute can be called."""


@dataclass(frozen=True, kw_only=True)
class Rubric:
    """One rubric. `lowest` and `highest` bound a score, or each of the `attributes`; `ties`: whether the judge of two
    answers may call them equally good.
    """

    kind: Literal["score", "attributes", "pairwise", "ranking"]
    prompt: tuple[str, ...]
    system: tuple[str, ...] = ()
    lowest: int = 1
    highest: int = 10
    attributes: tuple[str, ...] = ()
    ties: bool = True

    def __post_init__(self) -> None:
        used = set(_FIELD.findall("\n".join((*self.system, *self.prompt))))
        names = all(name.isidentifier() and name not in _TAKEN for name in self.attributes)
        faults = [
            text
            for wrong, text in (
                (bool(used - _FIELDS), f"unknown fields {', '.join(sorted(used - _FIELDS))}"),
                ("answers" not in used, "no {answers} in it"),
                (self.lowest >= self.highest, f"lowest {self.lowest} is not below highest {self.highest}"),
                ((self.kind == "attributes") != bool(self.attributes), "attributes belong to the kind attributes"),
                (not names or len(set(self.attributes)) < len(self.attributes), "attributes are names, each once"),
            )
            if wrong
        ]
        if faults:
            raise ConfigError(
                "bad-rubric", f"a rubric of kind {self.kind} cannot be used: {'; '.join(faults)}",
                expected="lines with the fields {conversation}, {answers}, {reference}", kept="nothing was started",
            )  # fmt: skip

    @property
    def reads_reference(self) -> bool:
        """Whether it shows the judge a reference answer."""
        return any("{reference}" in line for line in (*self.system, *self.prompt))


def read_rubric(name: str) -> Mapping[str, Any]:
    """The settings of a rubric: of the file at that place, or of one that comes with the project under that name;
    `ConfigError` where there is none.
    """
    shipped = {path.stem: path for path in sorted(_SHIPPED.glob("*.json"))}
    place = Path(os.path.expanduser(name))
    file = shipped.get(name) if not place.is_file() else place
    if file is None:
        near = nearest(name, shipped)
        raise ConfigError(
            "bad-rubric", f"there is no rubric {printable(name, 200)}", kept="nothing was started",
            expected=f"a JSON file, or one of {', '.join(shipped)}", found="no such file",
            wrong=(name,) if near else (), nearest=near,
        )  # fmt: skip
    try:
        if file.stat().st_size > _LARGEST:
            raise ValueError(f"more than {_LARGEST:,} bytes")
        read = exact_json(file.read_text(encoding="utf-8"))
        if not isinstance(read, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as fault:
        raise ConfigError(
            "bad-rubric", f"the rubric {printable(name, 200)} cannot be read: {printable(fault, 200)}",
            expected='{"kind": "score", "prompt": ["..."]} as JSON', where=printable(file, 200),
            kept="nothing was started",
        ) from fault  # fmt: skip
    return read
