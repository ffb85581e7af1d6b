"""A Python function as a scorer: `module:function`, handed whole columns as lists, by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from schemas import Schema
from schemas.errors import ConfigError, ServiceError, printable


class PythonScorer:
    """Scores rows with a function that can be imported.

    The function is called with the columns of `takes` as keyword lists of equal length, for example `def
    brevity(response): return [-len(text) for text in response]`, and returns one number (or None) per row, or
    a mapping of such lists by name. A plain list is named `reward`.
    """

    def __init__(self, function: str, takes: Schema) -> None:
        self.function, self._takes = function, takes
        self._call = imported(function)

    @property
    def takes(self) -> Schema:
        """The columns handed to the function."""
        return self._takes

    def score(self, rows: pa.Table) -> dict[str, pa.Array]:
        """The function's numbers as float64; `ServiceError` (13) where it is not one number per row."""
        columns = {name: rows[name].to_pylist() for name in self._takes.names}
        answer = self._call(**columns)
        named = answer if isinstance(answer, Mapping) else {"reward": answer}
        return {str(name): self._numbers(values, rows.num_rows) for name, values in named.items()}

    def _numbers(self, values: Sequence[Any], rows: int) -> pa.Array:
        listed = list(values)
        if len(listed) != rows:
            raise ServiceError(
                "bad-reply", f"{self.function} was asked {rows} scores, got {len(listed)}", expected=str(rows)
            )
        strange = [
            v for v in listed if v is not None and (isinstance(v, bool | str | bytes) or not hasattr(v, "__float__"))
        ]
        if strange:
            example = f"{type(strange[0]).__name__} {printable(strange[0])}"
            raise ServiceError(
                "bad-reply", f"{self.function} returned what is no number", expected="float", found=example
            )
        return pa.array([None if v is None else float(v) for v in listed], pa.float64())


def imported(name: str) -> Callable[..., Any]:
    """The function that `module:function` names; `ConfigError` if there is none."""
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as fault:  # whatever the user's module does while it is read: syntax, encoding, its own faults
        raise ConfigError(
            "no-function",
            f"{printable(name)} cannot be imported: {type(fault).__name__}: {printable(fault, 200)}",
            expected="module:function, importable; of the working folder that module alone",
            kept="nothing was started",
            next="what it imports from the working folder belongs in a package with it: package.module:function",
        ) from fault
    if not callable(function):
        raise ConfigError("no-function", f"{printable(name)} is not a function", kept="nothing was started")
    return function
