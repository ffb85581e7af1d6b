"""Flags that nothing reads: one error for all that were given, and a command without them."""

from __future__ import annotations

import pytest

from pipelines.cli import invocation
from pipelines.cli.unread import refuse_unread
from schemas.errors import ConfigError


def test_only_those_that_were_given_are_named_and_left_out() -> None:
    invocation.given(["--module", "pipelines", "Sft", "--data", "x", "--top-k", "3", "--top-p=0.5"])
    with pytest.raises(ConfigError, match="--top-k, --top-p: nothing is drawn") as fault:
        refuse_unread({"--top-k": True, "--top-p": True, "--seed": False}, "nothing is drawn")
    assert fault.value.next.endswith("Sft --data x")
    refuse_unread({"--top-k": False}, "nothing is drawn")
