"""What DuckDB says of a query, as we say it: in one line, which column was meant, and the query with that one."""

from __future__ import annotations

import re

from schemas.nearest import nearest

_MISSING = re.compile(r'column "(?P<name>[^"]+)" not found(?P<rest>.*)', re.DOTALL)
_QUOTED = re.compile(r'"([^"]+)"')


def one_line(error: object) -> str:
    """The message of an error, without the line of the query that it points into and without a stack of its own."""
    return " ".join(str(error).partition("\nLINE ")[0].partition("\nStack Trace:")[0].split())


def misnamed(message: str) -> tuple[str, str]:
    """The column that `message` says is not there, and the nearest of those that it lists; empty where none is."""
    missing = _MISSING.search(message)
    if missing is None:
        return "", ""
    return missing["name"], nearest(missing["name"], _QUOTED.findall(missing["rest"]))


def corrected(query: str, wrong: str, right: str) -> str:
    """`query` with `right` in place of its only `wrong`; empty where that is not certain."""
    whole = re.compile(rf"\b{re.escape(wrong)}\b", re.IGNORECASE)
    sure = right and len(whole.findall(query)) == 1
    return whole.sub(lambda _: right, query) if sure else ""
