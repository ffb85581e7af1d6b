"""Makes a disk refuse: Python reads this file at its start, in every process that has this folder on its path.

QUIVER_FAULT=ENOSPC:write:filter/.*part- has every `write` to a file whose path matches fail with that errno; several
calls are divided by commas. Only the local store's own system calls are concerned, as with `faults.faultos`.
"""

from __future__ import annotations

import errno
import os
import re
from typing import Any


class Refusing:
    """`os`, but for the named calls on matching paths."""

    def __init__(self, setting: str) -> None:
        name, calls, pattern = setting.split(":", 2)
        self._errno, self._calls, self._pattern = getattr(errno, name), calls.split(","), re.compile(pattern)

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self._calls:
            return real

        def call(*args: Any, **options: Any) -> Any:
            path = args[-1] if name == "link" else args[0]
            path = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else path
            if self._pattern.search(path) and not (name == "open" and not args[1] & os.O_CREAT):
                raise OSError(self._errno, os.strerror(self._errno), path)
            return real(*args, **options)

        return call


if "QUIVER_FAULT" in os.environ:
    from schemas.store import local

    local.os = Refusing(os.environ["QUIVER_FAULT"])  # type: ignore[assignment]
