"""This environment's programs, as the shell runs them from here."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from schemas.store.storage import relative


def program(name: str) -> str:
    """`name` as the shell runs it: bare where that is this environment's, otherwise by its place."""
    own = Path(sys.executable).parent / name
    bare = shutil.which(name)
    if not own.exists() or (bare is not None and Path(bare).parent.resolve() == own.parent.resolve()):
        return name
    near = relative(own)
    return near if len(near) < len(str(own)) else str(own)


def with_extra(name: str) -> str:
    """The command that installs the extra `name` of this project."""
    return f"{program('pip')} install -e '.[{name}]'"
