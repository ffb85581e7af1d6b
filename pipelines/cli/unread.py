"""Flags that were given and that nothing would read: an error, where they would be left out without a word."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.cli import invocation
from schemas.errors import ConfigError


def refuse_unread(given: Mapping[str, bool], why: str, *, expected: str = "") -> None:
    """`ConfigError` for those of the flags that are `given`; `why` nothing reads them."""
    flags = [flag for flag, is_given in given.items() if is_given]
    if flags:
        raise ConfigError(
            "bad-setting",
            f"{', '.join(flags)}: {why}",
            expected=expected,
            kept="nothing was started",
            next=invocation.without(*flags),
        )
