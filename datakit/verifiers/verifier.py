"""What a verifier is: settings, and a function of responses and gold answers, over whole columns and without a model.

Gold answers and responses are text from outside. Nothing of them is evaluated, but by `code`, which says where.
Patterns go through engines whose time is linear in the text (RE2, Rust's regex), and what could take longer is refused
by its size before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, kw_only=True)
class Verifier(ABC):
    """Base of the verifiers; its fields are the settings that `label.verify` hands on."""

    kind: ClassVar[str]

    @property
    def gold(self) -> str:
        """What the gold column holds, in words; empty: none is read."""
        return "the gold answer"

    @property
    def reading(self) -> str:
        """What is read in a response, in words."""
        return f"the {self.kind} read"

    def require(self) -> None:
        """`ConfigError` where this machine lacks what the kind needs; asked before anything runs."""
        return

    @abstractmethod
    def verdicts(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Of the text columns `response` (no nulls) and `gold`: `right` (float64, 0 to 1; null is 0), `read` (text or
        null) and `known` (whether the gold answer could be read).
        """


@dataclass(frozen=True, kw_only=True)
class ReadsBehind(Verifier):
    """Base of those that read what stands behind a text which introduces the answer, where they are given one."""

    after: str = ""
