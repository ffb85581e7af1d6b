"""The syntax tree of SQL text, and which functions in it depend on more than their arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from datakit.sql.session import Session

_STEADY_MACROS = re.compile(r"(list|array|map|md5_number)_\w+|if|nullif|fdiv|fmod|split_part|days_in_month|date_add")


def parse(session: Session, sql: str) -> dict[str, Any]:
    """The serialized statements of `sql`, or an object whose `error` is true."""
    parsed: dict[str, Any] = json.loads(session.rows("SELECT json_serialize_sql(?)", [sql])[0][0])
    return parsed


def nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object inside `tree`."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            yield node
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)


def unsteady(session: Session, tree: Any, columns: tuple[str, ...] = ()) -> str | None:
    """The first function that reads the clock, chance, the session or its settings; None if there is none.

    A bare name that is not among `columns` counts as a function: `current_date` is one.
    """
    called = {node["function_name"].lower() for node in nodes(tree) if node.get("class") == "FUNCTION"}
    bare = {node["column_names"][0].lower() for node in nodes(tree) if len(node.get("column_names") or ()) == 1}
    names = sorted(called | (bare - {name.lower() for name in columns}))
    found = session.rows(
        "SELECT function_name, count(*) FILTER (function_type = 'scalar' AND stability <> 'CONSISTENT'), "
        "count(*) FILTER (function_type = 'macro') FROM duckdb_functions() "
        "WHERE list_contains(?, function_name) GROUP BY ALL ORDER BY ALL",
        [names],
    )
    for name, varying, macros in found:
        if varying or (macros and not _STEADY_MACROS.fullmatch(name)):
            return str(name)
    return None
