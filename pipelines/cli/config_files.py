"""Luigi's configuration files, looked at before Luigi reads them: it would wait at a pipe, read a device without end,
pass over a file that it may not open, and show a traceback for a line that it does not understand.
"""

from __future__ import annotations

import configparser
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.cli.console import say_error
from schemas.errors import ConfigError, printable
from schemas.store.storage import shown
from trainers import doors

_PLACES = ("/etc/luigi/client.cfg", "/etc/luigi/luigi.cfg", "client.cfg", "luigi.cfg")
_NAMED, _FORMAT = "LUIGI_CONFIG_PATH", "LUIGI_CONFIG_PARSER"
_LIMIT = 1 << 20


def check_files() -> None:
    """Raise `ConfigError` for a configuration file that cannot be read; a command of ours ends with it."""
    named = os.environ.get(_NAMED, "")
    is_toml = os.environ.get(_FORMAT) == "toml" or named.endswith(".toml")
    with _reported():
        for place in _PLACES:
            if os.path.lexists(place):
                _check_file(place)
        if named and not is_toml:
            _check_file(named)


def check_values(config: configparser.ConfigParser) -> None:
    """Raise `ConfigError` for a value that refers to what there is not (`%` begins a reference, as does `${`); a
    command of ours ends with it.
    """
    with _reported():
        for section in config.sections():
            for option in config.options(section):
                try:
                    configparser.ConfigParser.get(config, section, option)
                except configparser.InterpolationError as fault:
                    meant = "%% for a percent sign, ${NAME} of the environment"
                    raise bad_configuration(f"[{section}] {option}", printable(fault, 200), meant) from None


def stated_at(section: str, key: str) -> str:
    """The file and the line that give `key` of `section` (empty: that begin it), of several files the last that Luigi
    reads; empty where none does.
    """
    for place in reversed([*_PLACES, *filter(None, [os.environ.get(_NAMED, "")])]):
        if os.path.isfile(place):
            inside = False
            with open(place, encoding="utf-8", errors="replace") as file:
                for number, line in enumerate(file, 1):
                    if line.startswith("["):
                        inside = line.strip() == f"[{section}]"
                    name = re.split("[=:]", line, maxsplit=1)[0].strip().replace("-", "_")
                    if inside and name == (key.replace("-", "_") or f"[{section}]"):
                        return f"{shown(place)}, line {number}"
    return ""


@contextmanager
def _reported() -> Iterator[None]:
    """This runs while `pipelines` is imported, before a command of ours has its own way out."""
    try:
        yield
    except ConfigError as error:
        if not doors.is_command():
            raise
        say_error(error)
        raise SystemExit(error.code) from None


def _check_file(place: str) -> None:
    named = os.environ.get(_NAMED) == place
    where = f"{shown(place)}, which {_NAMED} names" if named else shown(place)
    data = file_bytes(place, where, next=f"unset {_NAMED}" if named else "")
    reader = configparser.ConfigParser(interpolation=None)
    reader.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        reader.read_string(data.decode("utf-8"), source=shown(place))
    except UnicodeDecodeError as fault:
        line = data[: fault.start].count(b"\n") + 1
        raise bad_configuration(f"{shown(place)}, line {line}", "bytes that are no UTF-8", "text in UTF-8") from None
    except configparser.Error as fault:
        lines = [number for number, _ in getattr(fault, "errors", [])] or [getattr(fault, "lineno", 0)]
        what = printable(str(fault).splitlines()[0], 200)
        raise bad_configuration(
            f"{shown(place)}, line {lines[0]}", what, "[section], and below it lines key = value, each key once"
        ) from None


def file_bytes(place: str, where: str, *, limit: int = _LIMIT, next: str = "") -> bytes:
    """The bytes of the file `place`; `ConfigError` (with `next` where it cannot be opened) for what is none, or larger
    than `limit`.
    """
    try:
        if not stat.S_ISREG(os.stat(place).st_mode):
            raise bad_configuration(where, "no regular file", "a file")
        with open(place, "rb") as file:
            data = file.read(limit + 1)
    except OSError as fault:
        raise bad_configuration(where, str(fault.strerror), "a file that can be read", next) from None
    if len(data) > limit:
        raise bad_configuration(where, "more than that", f"at most {limit:,} bytes")
    return data


def bad_configuration(where: str, fault: str, expected: str, next: str = "") -> ConfigError:
    """What is said of a configuration that cannot be read: `where`, the `fault` there, and what should stand there."""
    return ConfigError(
        "bad-configuration",
        f"the configuration cannot be read: {where}",
        expected=expected,
        found=fault,
        where=where,
        kept="nothing was started",
        next=next or "correct that file, then run the same command again",
    )
