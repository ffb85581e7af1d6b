"""Instructions that a rule can check, as IFEval has them (Zhou et al. 2023, arXiv:2311.07911).

The gold column holds JSON: {"instruction_id_list": ["punctuation:no_comma", ...], "kwargs": [{}, ...]}, as the format
`ifeval` reads it of that benchmark's rows. A row with an instruction that is not known, or whose settings are not
whole, cannot be checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from datakit.instructions import INSTRUCTIONS
from datakit.verifiers.verifier import Verifier
from schemas.canonical import canonical
from schemas.untrusted import strict_json

if TYPE_CHECKING:
    import polars as pl

Asked = list[tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Instructions(Verifier):
    """Whether a response follows all of its row's instructions, or which share of them; `_read` lists those that it
    does not follow.
    """

    kind: ClassVar[str] = "instructions"

    score: Literal["all", "share"] = "all"
    loose: bool = False
    """Whether an instruction counts as followed, too, without the first line, the last line, stars, or any of these."""

    @property
    def gold(self) -> str:
        return 'JSON: {"instruction_id_list": [...], "kwargs": [...]}'

    @property
    def reading(self) -> str:
        return "instructions that are not followed"

    def verdicts(self, rows: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        asked = {text: instructions_of(text) for text in rows["gold"].unique() if text is not None}
        checks: dict[str, tuple[str, Mapping[str, Any], list[int]]] = {}
        for row, gold in enumerate(rows["gold"]):
            for name, given in asked.get(gold) or ():
                checks.setdefault(canonical([name, given]), (name, given, []))[2].append(row)
        followed, counts, left = [0] * len(rows), [0] * len(rows), [list[str]() for _ in range(len(rows))]
        for name, given, places in checks.values():
            for row, follows in zip(places, self._follow(rows["response"][places], name, given), strict=True):
                counts[row] += 1
                followed[row] += bool(follows)
                left[row] += [] if follows else [name]
        shares = [done / count if count else 0.0 for done, count in zip(followed, counts, strict=True)]
        known = [bool(asked.get(gold)) for gold in rows["gold"]]
        right = shares if self.score == "share" else [float(share == 1) for share in shares]
        read = [", ".join(names) if sure else None for names, sure in zip(left, known, strict=True)]
        kinds = {"right": pl.Float64, "read": pl.String, "known": pl.Boolean}
        return pl.DataFrame({"right": right, "read": read, "known": known}, schema=kinds)

    def _follow(self, responses: pl.Series, name: str, given: Mapping[str, Any]) -> list[bool]:
        import polars as pl

        text = pl.col("response")
        check = [
            one.str.contains(r"\S") & INSTRUCTIONS[name].follows(one, given).fill_null(False)
            for one in (variants(text) if self.loose else (text,))
        ]
        return responses.to_frame("response").select(pl.any_horizontal(check)).to_series().to_list()


def variants(text: pl.Expr) -> Iterator[pl.Expr]:
    """A response, without its first line, its last, both; each of these without stars too: IFEval's loose reading."""
    first, last = r"(?s)^[^\n]*\n?(.*)$", r"(?s)^(.*)\n[^\n]*$"
    cut = text.str.extract(first, 1), text.str.extract(last, 1), text.str.extract(first, 1).str.extract(last, 1)
    for one in (text, *cut):
        yield one.fill_null("")
        yield one.fill_null("").str.replace_all("*", "", literal=True)


def instructions_of(gold: str) -> Asked:
    """The instructions that a gold answer lists, with their settings; none where it cannot be read."""
    try:
        listed: Any = strict_json(gold)
        names, settings = listed["instruction_id_list"], listed["kwargs"]
        given = [{name: value for name, value in (one or {}).items() if value is not None} for one in settings]
        whole = len(names) == len(given) and all(
            INSTRUCTIONS[name].fits(one) for name, one in zip(names, given, strict=True)
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []
    return list(zip(names, given, strict=True)) if whole else []
