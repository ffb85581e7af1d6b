"""The secret that clients send as a bearer token: of an environment variable, or of a private file that is made once.

It stands on no command line and in no log: what is printed is where it lies.
"""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from datakit.clients.http.address import Key
from schemas.errors import ConfigError, printable

_BYTES = 32
_LEAST, _LONGEST = 16, 1 << 12


@dataclass(frozen=True, repr=False)
class Secret:
    """The `text` (empty: none is asked for), and the `place` of the file it is in, where it is in one."""

    text: str
    place: str = ""


def of_environment(name: str) -> Secret:
    """That in the variable `name`, or in the file that `<name>_FILE` names; `ConfigError` for one that is too short."""
    [sent] = Key.named(name).headers.values()
    text = sent.partition(" ")[2]
    _require_long(text, f"the environment variable {name}")
    return Secret(text)


def of_file(place: str) -> Secret:
    """That in the file at `place`, which only this user can read; where there is none, a new one is written there."""
    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return Secret(_read(path), str(path.absolute()))
    text = secrets.token_urlsafe(_BYTES)
    with open(number, "w", encoding="ascii") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text + "\n")
    return Secret(text, str(path.absolute()))


def _read(path: Path) -> str:
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as fault:
        raise _refused(path, f"it cannot be opened: {fault.strerror}") from fault
    with open(number, "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o077:
            raise _refused(path, f"mode {stat.S_IMODE(facts.st_mode):04o}, of user {facts.st_uid}")
        text = file.read(_LONGEST).decode("ascii", "replace").strip()
    _require_long(text, printable(str(path), 200))
    return text


def _refused(path: Path, actual: str) -> ConfigError:
    return ConfigError(
        "bad-token-file",
        f"the token in {printable(str(path), 200)} is not private",
        expected="a file of this user's that nobody else can read (mode 0600), no link",
        found=actual,
        where=str(path),
        kept="nothing was started",
        next="remove it, and a new one is made; or --token-file FILE",
    )


def _require_long(text: str, where: str) -> None:
    if len(text) < _LEAST or not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigError(
            "bad-token",
            "that is no token for a server",
            expected=f"at least {_LEAST} letters and digits, without blanks",
            where=where,
            kept="nothing was started",
            next="leave it out: a token is made and kept in a private file",
        )
