"""Where a model answers: `http://host:8000/v1#model`; several servers of one model, `http://a:8000/v1+http://b:8000/v1#m`.

A key is named, never written: `key=OPENAI_API_KEY` is the environment variable of that name, or the file that the
variable `OPENAI_API_KEY_FILE` names. It is read where the model is opened, and is cut out of whatever a server says.
"""

from __future__ import annotations

import functools
import html
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, quote_plus, urlsplit

from schemas.errors import ConfigError, printable
from schemas.store.storage import shown

_BETWEEN = re.compile(r"\+(?=https?://)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LONGEST_KEY = 1 << 14
_LEAST_KEY, _LEAST_IN_DATA = 4, 16
"""Characters of a key that is cut out of words, and out of whole replies: a shorter one stands in too many of them."""
_CUT = "[key]"


@dataclass(frozen=True)
class Address:
    """The `bases` that requests go to, without a slash at the end, and the `model` that is asked there."""

    bases: tuple[str, ...]
    model: str

    @staticmethod
    def of(reference: str) -> Address:
        """The address that a reference without settings names; `ConfigError` for one that is none."""
        places, _, model = reference.partition("#")
        bases = tuple(base.rstrip("/") for base in _BETWEEN.split(places))
        for base in bases:
            if fault := _fault(base):
                raise ConfigError(
                    "bad-address",
                    f"{shown(base)}: {fault}",
                    expected="http://host:8000/v1#model, or https; the servers of one model with a + between them",
                    found=shown(reference),
                    kept="nothing was started",
                )
        if len(set(bases)) < len(bases):
            raise ConfigError("bad-address", f"{shown(reference)} names a server twice", kept="nothing was started")
        return Address(bases, model)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The machines that are asked."""
        return tuple(urlsplit(base).hostname or "" for base in self.bases)

    @property
    def is_private(self) -> bool:
        """Whether what is sent is read by nobody on the way: encrypted, or never leaving this machine."""
        return all(
            base.startswith("https:") or host in ("localhost", "::1") or host.startswith("127.")
            for base, host in zip(self.bases, self.hosts, strict=True)
        )


def _fault(base: str) -> str:
    try:
        parts = urlsplit(base)
        _ = parts.port
    except ValueError:
        return "no address of a server, or no port that can be one"  # the library's words quote what may be a password
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "no address of a server"
    if parts.username is not None or parts.password is not None:
        return "a name and a password never stand in an address: key=NAME names the variable that holds a key"
    if parts.query:
        return "what stands behind a ? is no part of a server's address"
    return "a blank or a control character" if re.search(r"[\x00-\x20\x7f]", base) else ""


class Key:
    """A secret that is sent with every request; its text appears in no representation of it."""

    def __init__(self, text: str = "") -> None:
        self._text = text

    @staticmethod
    def named(name: str, environment: Mapping[str, str] = os.environ) -> Key:
        """The key that the variable `name`, or the file that `<name>_FILE` names, holds; none for no name."""
        if not name:
            return Key()
        if not _NAME.fullmatch(name):
            raise ConfigError(
                "bad-key",
                "what stands behind key= is no name of an environment variable",
                expected="key=NAME, where the variable NAME holds the key, or NAME_FILE names a file that does",
                kept="nothing was started",
                next="export NAME=..., and write key=NAME; if a key itself stood there, make a new one: it was shown",
            )
        text = environment.get(name, "")
        if not text and (place := environment.get(f"{name}_FILE", "")):
            text = _in_file(name, place)
        text = text.strip()
        if not text or not text.isascii() or not text.isprintable():
            raise ConfigError(
                "no-key",
                f"the environment variable {name} holds no key" if not text else f"what {name} holds can be no key",
                expected=f"a key in {name}, or a file that holds it in {name}_FILE",
                kept="nothing was started",
                next=f"export {name}=..., or {name}_FILE=/path/to/file",
            )
        return Key(text)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a request that send it; none where there is no key."""
        return {"Authorization": f"Bearer {self._text}"} if self._text else {}

    def cut_from(self, text: str) -> str:
        """What a server said, with the key, wherever it stands there and however it is escaped, as `[key]`."""
        for form in self._forms if len(self._text) >= _LEAST_KEY else ():
            text = text.replace(form, _CUT)
        return text

    def cut_from_data(self, data: bytes) -> bytes:
        """A whole reply likewise, before anybody reads or shortens it; a short key may be a word of any answer."""
        for form in self._forms if len(self._text) >= _LEAST_IN_DATA else ():
            data = data.replace(form.encode(), _CUT.encode())
        return data

    @functools.cached_property
    def _forms(self) -> tuple[str, ...]:
        """The key as it stands in JSON, in addresses and in HTML; the longest first."""
        text = self._text
        in_json = json.dumps(text)[1:-1]
        forms = {text, in_json, in_json.replace("/", "\\/"), quote(text), quote(text, safe=""), quote_plus(text)}
        return tuple(sorted({*forms, html.escape(text), html.escape(text, quote=False)}, key=len, reverse=True))

    def __repr__(self) -> str:
        return "Key(...)" if self._text else "Key()"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a key stays in the process that read it")


def _in_file(name: str, place: str) -> str:
    try:
        with Path(place).open("rb") as file:
            return file.read(_LONGEST_KEY).decode("ascii", "replace")
    except OSError as fault:
        raise ConfigError(
            "no-key",
            f"the file that {name}_FILE names cannot be read: {type(fault).__name__}",
            where=printable(place, 200),
            kept="nothing was started",
            next=f"check the path and its permissions, or export {name}=...",
        ) from fault
