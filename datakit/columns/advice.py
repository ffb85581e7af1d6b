"""The advice where no row passes a threshold: where values lie, and a threshold that keeps a tenth."""

from __future__ import annotations

import json
import math

from datakit.columns.measurement import FiniteValues
from schemas.errors import DataError


def nothing_kept(column: str, asked: str, rows: int, finite: FiniteValues, *, upward: bool) -> DataError:
    """The error; `finite` are the finite ones of `rows` values, `upward` says that large ones were wanted."""
    condition = f"{column} {asked}" if asked else f"a quantile of {column}"
    if len(finite) == 0:
        return DataError(
            "nothing-kept", f"{condition} keeps none of {rows} rows: no value is a finite number",
            kept="nothing was written", next="name another column, or make this one anew",
        )  # fmt: skip
    least, tenth, half, ninth, most = map(finite.at, (0, 0.1, 0.5, 0.9, 1))
    quantiles = f"quantiles 0.1: {tenth:.6g}, 0.5: {half:.6g}, 0.9: {ninth:.6g}"
    settings, kept = _advice(column, finite, upward)
    return DataError(
        "nothing-kept",
        f"{condition} keeps none of {rows} rows",
        expected=f"a bound that some rows pass: {kept}",
        found=f"range {least:.6g} .. {most:.6g}, {quantiles}; {rows - len(finite)} not finite",
        kept="nothing was written",
        next=f"--params '{settings}'",
    )


def _advice(column: str, finite: FiniteValues, upward: bool) -> tuple[str, str]:
    """A bound near the outer tenth as settings, and what it would keep; where no value lies beyond it, the bound that
    includes its equals.
    """
    place = int(0.9 * (len(finite) - 1)) if upward else math.ceil(0.1 * (len(finite) - 1))
    (cut,) = finite.nth(place)
    beyond = sum(int(((values > cut) if upward else (values < cut)).sum()) for values in finite.chunks())
    share = (beyond or sum(int((values == cut).sum()) for values in finite.chunks())) / len(finite)
    name, sign = ("minimum", ">") if upward else ("maximum", "<")
    settings = {"column": column, name: float(f"{cut:.6g}"), **({} if beyond else {"strict": False})}
    return json.dumps(settings), f"{sign}{'' if beyond else '='} {cut:.6g} keeps {share:.0%}"
