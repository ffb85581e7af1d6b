"""Jinja's immutable sandbox in which texts that came from a row stay known (`datakit.templating.given`)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jinja2.runtime
from jinja2.ext import Extension
from jinja2.filters import make_attrgetter
from jinja2.runtime import BlockReference, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from datakit.templating.given import Given, join, joined, replace, turn_of, written

_CLEAR_FILTERS = {"first", "last", "min", "max", "default", "d", "attr", "trim", "join", "replace", "string", "safe"}
"""Filters whose texts are texts they were given, or keep their runs."""

_TRACE_THEMSELVES = (Macro, BlockReference, LoopContext)


class Tracing(ImmutableSandboxedEnvironment):
    """A sandbox in which texts keep their runs."""

    intercepted_binops = frozenset({"%"})
    concat = staticmethod(joined)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, finalize=written)
        own = {"join": _join_filter, "replace": _replace_filter, "string": written, "safe": written}
        self.filters.update(own, trim=_trim_filter)
        for name, done in self.filters.items():
            if name not in _CLEAR_FILTERS:
                self.filters[name] = _guarded(done)

    def call(self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """As of the sandbox; a text that a function made of one from a row is unclear."""
        owner = getattr(__obj, "__self__", None)
        given = [*args, *(value for name, value in kwargs.items() if name not in ("_loop_vars", "_block_vars"))]
        from_row = any(turn_of(value) is not None for value in given)
        if type(owner) is str and from_row and __obj.__name__ not in ("format", "format_map"):
            owner = Given(owner, ())
            __obj = getattr(owner, __obj.__name__)
        made = super().call(__context, __obj, *args, **kwargs)
        if isinstance(__obj, _TRACE_THEMSELVES) or isinstance(owner, Given | dict | list | Extension):
            return made
        return Given(made) if isinstance(made, str) and from_row else made

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """As of the sandbox; a text formatted with one from a row is unclear."""
        made = super().call_binop(context, operator, left, right)
        return Given(made) if isinstance(made, str) and turn_of([left, right]) is not None else made

    def wrap_str_format(self, value: Any) -> Any:
        """As of the sandbox; a text formatted with one from a row is unclear."""
        formatted = super().wrap_str_format(value)
        if formatted is None:
            return None

        def run(*args: Any, **named: Any) -> str:
            made = formatted(*args, **named)
            return Given(made) if turn_of([value.__self__, args, named]) is not None else made

        return run


def _guarded(done: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose texts are unclear where they are made of what came from a row."""

    @functools.wraps(done)
    def run(*args: Any, **named: Any) -> Any:
        made = done(*args, **named)
        return Given(made) if isinstance(made, str) and turn_of([args, named]) is not None else made

    return run


@jinja2.pass_environment
def _join_filter(env: Any, value: Any, d: str = "", attribute: Any = None) -> str:
    parts = value if attribute is None else map(make_attrgetter(env, attribute), value)
    return join(written(d), parts)


def _replace_filter(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    text = written(value)
    text = text if type(text) is Given else Given(text, ())
    return replace(text, written(old), written(new), -1 if count is None else count)


def _trim_filter(value: Any, chars: str | None = None) -> str:
    return written(value).strip(chars)


jinja2.runtime.str_join = joined  # type: ignore[assignment]
"""What `~` compiles to."""
