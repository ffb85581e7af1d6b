"""A rubric: what a judge is asked and on which scale it answers, as a small JSON file.

    {"kind": "pairwise", "system": ["You compare two answers.", ...], "prompt": ["{conversation}", "{answers}", ...]}

`system` and `prompt` are lines. In them `{conversation}` is what was asked, `{answers}` all answers under their letters
and `{reference}` the reference answer; each is fenced, so that no answer can pass for a part of the question.
`{criterion}` is what the answers of a row are judged by, a part of the question, and not fenced. How the verdict is to
be written is added behind the prompt, because a parser has to read it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from datakit.named_file import NamedFiles
from schemas.errors import ConfigError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TIE = "tie"
_FILES = NamedFiles(
    "rubric", "bad-rubric", '{"kind": "score", "prompt": ["..."]} as JSON', Path(__file__).with_name("rubrics")
)
_FIELD = re.compile(r"\{(\w+)\}")
_FIELDS = {"conversation", "answers", "reference", "criterion"}
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
                expected="lines with the fields {conversation}, {answers}, {reference}, {criterion}",
                kept="nothing was started",
            )  # fmt: skip

    @property
    def reads_reference(self) -> bool:
        """Whether it shows the judge a reference answer."""
        return self._has("{reference}")

    @property
    def reads_criterion(self) -> bool:
        """Whether every row says itself what its answers are judged by."""
        return self._has("{criterion}")

    def _has(self, field: str) -> bool:
        return any(field in line for line in (*self.system, *self.prompt))


def read_rubric(name: str) -> Mapping[str, Any]:
    """The settings of a rubric: of the file at that place, or of one that comes with the project under that name;
    `ConfigError` where there is none.
    """
    settings: Mapping[str, Any] = _FILES.json_of(name)
    return settings


def with_rubric(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings of an operation with a `rubric`, read where it is a text: the name of a file."""
    rubric = params.get("rubric")
    return {**params, "rubric": read_rubric(rubric)} if isinstance(rubric, str) else params
