"""What a user is told whose threshold no row passes: where values lie, and a threshold that keeps a tenth."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from schemas.errors import DataError


def nothing_kept(column: str, asked: str, rows: int, finite: npt.NDArray[np.float64], *, upward: bool) -> DataError:
    """The error; `finite` are the finite ones of `rows` values, `upward` says that large ones were wanted."""
    condition = f"{column} {asked}"
    if len(finite) == 0:
        return DataError("nothing-kept", f"{condition} keeps none of {rows} rows: no value is a finite number")
    least, tenth, half, ninth, most = np.quantile(finite, [0, 0.1, 0.5, 0.9, 1])
    quantiles = f"quantiles 0.1: {tenth:.6g}, 0.5: {half:.6g}, 0.9: {ninth:.6g}"
    return DataError(
        "nothing-kept",
        f"{condition} keeps none of {rows} rows",
        expected=condition,
        found=f"range {least:.6g} .. {most:.6g}, {quantiles}; {rows - len(finite)} not finite",
        kept="nothing was written",
        next=_advice(finite, upward),
    )


def _advice(finite: npt.NDArray[np.float64], upward: bool) -> str:
    """A bound near the outer tenth; where no value lies beyond it, the bound that includes its equals."""
    place = int(0.9 * (len(finite) - 1)) if upward else int(np.ceil(0.1 * (len(finite) - 1)))
    cut = float(np.partition(finite, place)[place])
    beyond = finite > cut if upward else finite < cut
    ties = not beyond.any()
    share = (finite == cut if ties else beyond).mean()
    name, sign = ("minimum", ">") if upward else ("maximum", "<")
    return f"{name}={cut:.6g}{', strict=false' if ties else ''} ({sign}{'=' if ties else ''}) keeps {share:.0%}"
