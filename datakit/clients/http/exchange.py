"""A request and what came of it, whichever endpoint it is for.

Request      path, body, how long its reply may be
Reply        status, bytes, how long it took
Unanswered   no reply came, or one that says to ask later: it is sent again
Refused      a reply that is final for this request: its row has no answer, and says why
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datakit.clients.http import streamed
from schemas.canonical import canonical_of_plain
from schemas.errors import printable
from schemas.untrusted import strict_json

_WORDS = 160
_TOKEN_BYTES = 512
"""JSON of one token with its number, text and log-probability, at most."""
_SPARE = 1 << 18
_PIECES = 4
"""How much longer a reply is whose every token is an event."""
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Request:
    """A `body` for the endpoint at `path`, below the base or (with a slash in front) at the root of the server."""

    path: str
    body: Mapping[str, Any]
    tokens: int = 0
    """Tokens that the reply may speak of."""
    stream: bool = False
    """Whether the reply comes in pieces; what is asked, and its key, are the same."""

    @property
    def answer_bytes(self) -> int:
        """How long a reply can be that speaks of so many tokens."""
        return _SPARE + _TOKEN_BYTES * self.tokens * (_PIECES if self.stream else 1)

    @property
    def data(self) -> bytes:
        """The body as the bytes that are sent: JSON in UTF-8, without blanks."""
        pieces = {"stream": True, "stream_options": {"include_usage": True}} if self.stream else {}
        return _JSON.encode({**self.body, **pieces}).encode()

    def key(self, served: str) -> str:
        """What it asks of the model with the identity `served`: SHA-256 in hex."""
        return hashlib.sha256(f"{served}\x1f{self.path}\x1f{canonical_of_plain(self.body)}".encode()).hexdigest()


@dataclass(frozen=True)
class Reply:
    """What a server answered, decompressed; `seconds` from the first byte out to the last one in."""

    status: int
    headers: Mapping[str, str]
    data: bytes
    seconds: float
    base: str = ""

    def json(self) -> Any:
        """The reply as JSON, put together where it came in pieces; `Refused` where it is none, `Unanswered` where it
        was broken off.
        """
        try:
            if self.headers.get("content-type", "").startswith(streamed.TYPE):
                return streamed.put_together(self.data)
            return strict_json(self.data)
        except streamed.BrokenOff as fault:
            raise Unanswered(printable(fault, _WORDS), status=500) from fault
        except Exception as fault:  # whatever a parser makes of bytes from outside
            raise Refused(f"the reply is no JSON: {printable(fault, _WORDS)}") from fault

    @property
    def words(self) -> str:
        """What the server says went wrong, on one line, unescaped; the status where it says nothing."""
        try:
            document = strict_json(self.data[: 1 << 16])
        except Exception:  # HTML, text, cut off: shown as it came
            document = re.sub(r"<[^>]*>|\s+", " ", self.data[:4096].decode("utf-8", "replace")).strip()
        for name in ("error", "message", "detail"):
            document = document.get(name, document) if isinstance(document, dict) else document
        text = document if isinstance(document, str) else "" if document is None else json.dumps(document)
        return f"{self.status}: {text[:_WORDS]}" if text else f"{self.status}"

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asks to wait; None where it names none."""
        try:
            return max(0.0, min(float(self.headers.get("retry-after", "")), _LONGEST_REST))
        except ValueError:
            return None


_LONGEST_REST = 600.0


class Unanswered(Exception):
    """No answer, and asking again is safe: no whole reply came in time (`slow`), or one of a `status` that says so."""

    def __init__(self, words: str, *, status: int = 0, slow: bool = False, rest: float | None = None) -> None:
        super().__init__(words)
        self.status, self.slow, self.rest = status, slow, rest


class Refused(Exception):
    """This request has no answer, for the reason given; another one may have."""
