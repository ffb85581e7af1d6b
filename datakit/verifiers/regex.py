"""A pattern in a response: that of the settings for all rows, or each row's gold answer.

Patterns are Rust's (no look-around, no back-references): a match takes time linear in the text, so that neither a
hostile pattern nor a hostile answer can hold up a run; patterns that would be large once compiled are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from datakit.columns import answers
from datakit.verifiers.verifier import ReadsBehind
from schemas.errors import ConfigError, printable

if TYPE_CHECKING:
    import polars as pl

LONGEST, LARGEST = 1000, 4000
"""Characters of a pattern, and its `cost`; the regex library has a limit of what it compiles to besides."""
MOST_STEPS = 1 << 26
"""Cost of a pattern times characters of a response; a response that asks for more is not read."""


@dataclass(frozen=True, kw_only=True)
class Regex(ReadsBehind):
    """Whether `pattern` (empty: the gold answer of the row) matches in the response, or all of it (`whole`)."""

    kind: ClassVar[str] = "regex"

    pattern: str = ""
    whole: bool = False
    """Blanks around the response do not count."""

    def __post_init__(self) -> None:
        import polars as pl

        if self.pattern and not pl.select(usable(pl.lit(self.pattern))).item():
            raise ConfigError(
                "bad-setting", f"pattern {printable(self.pattern, 200)} is no regular expression that can be used",
                expected=f"at most {LONGEST} characters of Rust's syntax: no look-around, no back-references",
            )  # fmt: skip

    @property
    def gold(self) -> str:
        """The pattern, where the settings have none."""
        return "" if self.pattern else "a regular expression"

    @property
    def reading(self) -> str:
        return "what matches"

    def verdicts(self, rows: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        response = answers.scope(pl.col("response"), self.after)
        pattern = pl.lit(self.pattern) if self.pattern else pl.when(usable(pl.col("gold"))).then(pl.col("gold"))
        frame = rows.select(
            response=response.str.strip_chars() if self.whole else response,
            pattern=pl.lit("^(?:") + pattern + pl.lit(")$") if self.whole else pattern,
            cost=cost(pattern),
        )
        quick = pl.col("cost") * pl.col("response").str.len_chars() <= MOST_STEPS
        return frame.select(
            read=pl.when(quick).then(pl.col("response").str.extract(pl.col("pattern"), 0)),
            known=pl.col("pattern").is_not_null(),
        ).with_columns(right=pl.col("read").is_not_null().cast(pl.Float64))


def cost(pattern: pl.Expr) -> pl.Expr:
    """About the states of a pattern: its length times all of its counted repetitions."""
    import polars as pl

    counts = pattern.str.extract_all(r"\{[0-9,\s]+\}").list.eval(
        pl.element().str.extract_all("[0-9]{1,7}").list.last().cast(pl.Float64).clip(lower_bound=1)
    )
    return pattern.str.len_chars() * counts.list.eval(pl.element().product()).list.first().fill_null(1.0)


def usable(pattern: pl.Expr) -> pl.Expr:
    """Whether a text is a pattern that is compiled, and not too large a one."""
    import polars as pl

    short = pl.when(pattern.str.len_chars() <= LONGEST, cost(pattern) <= LARGEST).then(pattern)
    return pl.lit("").str.contains(short, strict=False).is_not_null()
