"""This environment's programs, as the shell runs them from here, and what an extra would add to it."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from schemas.errors import ConfigError
from schemas.process.terminal import PROGRAMS
from schemas.store.storage import relative

_PROJECT, _DISTRIBUTION = Path(__file__).resolve().parents[1], "quiver-align"


def program(name: str) -> str:
    """`name` as the shell runs it: bare where that is this environment's, otherwise by its place."""
    own = Path(sys.executable).parent / name
    bare = shutil.which(name)
    if not own.exists() or (bare is not None and Path(bare).parent.resolve() == own.parent.resolve()):
        return name
    near = relative(own)
    return near if len(near) < len(str(own)) else str(own)


def as_run(text: str) -> str:
    """The command `text` as the shell runs it from here, where it begins with one of `PROGRAMS`."""
    name, blank, rest = text.partition(" ")
    return f"{shlex.quote(program(name))}{blank}{rest}" if name in PROGRAMS else text


def with_extra(name: str) -> str:
    """The command that installs the extra `name` of this project: of the checkout, where it runs from one."""
    if not (_PROJECT / "pyproject.toml").is_file():
        return f"{program('pip')} install '{_DISTRIBUTION}[{name}]'"
    place = f"{relative(_PROJECT)}[{name}]"
    return f"{shlex.quote(program('pip'))} install -e '{place}'"


def missing_library(what: str, library: str, extra: str, kept: str = "finished chunks") -> ConfigError:
    """What to say where `what` asks for a library of the extra that is not installed."""
    return ConfigError(
        "missing-library", f"{what} asks for {library}, which is not installed", kept=kept, next=with_extra(extra)
    )
