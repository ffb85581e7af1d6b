"""The command that was given, and the commands that follow from it: whole, and with the folder of this environment's
programs in front wherever the shell would not run them by their bare names.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

_PROGRAMS = ("luigi", "quiver", "python", "pip")
_MODULE = ["--module", "pipelines"]
_given: list[str] = sys.argv[1:]


def given(arguments: Sequence[str]) -> None:
    """From now on `arguments` are those of the command that runs."""
    _given[:] = arguments


def program(name: str) -> str:
    """`name` as the shell runs it: bare where that is this environment's, otherwise by its place."""
    own = Path(sys.executable).parent / name
    bare = shutil.which(name)
    if not own.exists() or (bare is not None and Path(bare).parent.resolve() == own.parent.resolve()):
        return name
    near = os.path.relpath(own)
    return near if len(near) < len(str(own)) else str(own)


def command(*words: str) -> list[str]:
    """The words of another command of the same program, below the same root of data."""
    return [program("luigi"), *_MODULE, *words, *_values("--quiver-root", _given)]


def value(flag: str) -> str:
    """What the command gives `flag`; empty where it does not have it."""
    words = _values(flag, _given)
    return words[-1].removeprefix(f"{flag}=") if words else ""


def again(**changed: object) -> list[str]:
    """The words of the command that was given, with other values of some of its parameters."""
    words = list(_given)
    for name, value in changed.items():
        flag = f"--{name.replace('_', '-')}"
        words = [*_without(flag, words), flag, str(value)]
    return [program("luigi"), *([] if _values("--module", words) else _MODULE), *words]


def runnable(text: str) -> str:
    """A command that an error names, as it works here: flags alone take the place of those that the command had."""
    if text.startswith("--"):
        words = again()
        for word in text.split():
            words = _without(word, words) if word.startswith("--") else words
        return f"{shlex.join(words)} {text}"
    name, blank, rest = text.partition(" ")
    return f"{shlex.quote(program(name))}{blank}{rest}" if name in _PROGRAMS else text


def folded(words: Sequence[str], width: int) -> str:
    """A command as a shell takes it, over lines of `width` characters where that can be; a flag and its value stay on
    one line.
    """
    groups: list[list[str]] = [[]]
    for word in words:
        if word.startswith("--"):
            groups.append([])
        groups[-1].append(shlex.quote(word))
    lines = [" ".join(groups[0])]
    for group in map(" ".join, groups[1:]):
        if len(lines[-1]) + len(group) + 3 > width:
            lines.append(f"    {group}")
        else:
            lines[-1] += f" {group}"
    return " \\\n".join(lines)


def _without(flag: str, words: Sequence[str]) -> list[str]:
    rest, skip = [], False
    for word in words:
        if not skip and word != flag and not word.startswith(flag + "="):
            rest.append(word)
        skip = not skip and word == flag
    return rest


def _values(flag: str, words: Sequence[str]) -> list[str]:
    """`flag` and its value, where the command has it."""
    for index, word in enumerate(words):
        if word.startswith(flag + "="):
            return [word]
        if word == flag:
            return list(words[index : index + 2])
    return []
