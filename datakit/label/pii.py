"""What in a text looks like personal data: e-mail addresses, telephone numbers, IP addresses, card numbers, IBANs and
US social security numbers, counted by kind.

Patterns go through RE2, whose time is linear in the text whatever it holds. Card numbers must pass Luhn's check
(ISO/IEC 7812-1), also where a date of expiry or another number stands beside them; IBANs have the length of their
country and pass the check of their digits (ISO 13616, modulo 97), social security numbers have no part that is never
given out. Telephone numbers are those of North America with their area code, and those of 7 to 15 digits behind a +
that no letter or digit is before (a sum is none); a version number of four parts counts as an IP address. Of IPv6
with :: only addresses of hosts are found (2000::/3, fc00::/7, fe80::/10): 1::2 is more often code. Names are not looked
for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.card_numbers import RUN, card_numbers
from datakit.columns.check_digits import IBAN, iban_holds, phone_holds
from datakit.columns.conversations import flat
from datakit.columns.matches import count_matches
from datakit.op import Context, Label
from schemas import Column, Schema
from schemas.errors import ConfigError

Kind = Literal["email", "phone", "ip", "card", "iban", "ssn"]
_GROUP = r"[0-9A-Fa-f]{1,4}"
_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
PATTERNS: dict[str, str] = {
    "email": r"\b[A-Za-z0-9][A-Za-z0-9._%+-]*@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,24}\b",
    "phone": r"\B\+[1-9]\d{0,2}(?:[ .-]?\(?\d{1,4}\)?){2,5}\b|(?:\([2-9]\d\d\) ?|\b[2-9]\d\d[ .-])\d{3}[ .-]\d{4}\b",
    "ip": rf"\b(?:{_BYTE}\.){{3}}{_BYTE}\b|\b(?:{_GROUP}:){{7}}{_GROUP}\b|"
    rf"\b(?:[23][0-9A-Fa-f]{{3}}|[Ff][CcDd][0-9A-Fa-f]{{2}}|[Ff][Ee][89ABab][0-9A-Fa-f])(?::{_GROUP}){{0,5}}:(?::{_GROUP}){{1,6}}\b",
    "card": RUN,
    "iban": IBAN,
    "ssn": r"\b(?:00[1-9]|0[1-9]\d|[1-57-8]\d\d|6[0-57-9]\d|66[0-57-9])-(?:0[1-9]|[1-9]\d)-"
    r"(?:000[1-9]|00[1-9]\d|0[1-9]\d\d|[1-9]\d{3})\b",
}
"""What each kind looks like, in RE2's syntax."""

_COUNTS = {
    "card": card_numbers,
    "iban": lambda matches: iban_holds(matches).astype(np.int64),
    "phone": lambda matches: phone_holds(matches).astype(np.int64),
}


@dataclass(frozen=True, kw_only=True)
class Pii(Label):
    """How often each of `kinds` stands in `column`, as `<output>_<kind>`; a null text has none."""

    name: ClassVar[str] = "label.pii"
    version: ClassVar[int] = 3

    column: str = "response"
    kinds: tuple[Kind, ...] = ("email", "phone", "ip", "card", "iban", "ssn")
    output: str = ""
    """Beginning of the new columns' names; `<column>_pii` if empty."""

    def __post_init__(self) -> None:
        if not self.kinds or len(set(self.kinds)) != len(self.kinds):
            raise ConfigError("bad-setting", f"{self.name}: kinds {self.kinds}", expected="kinds, each once")

    @property
    def takes(self) -> Schema:
        return Schema("texts", 1, (Column(self.column, pa.string(), "what is looked through", nullable=True),))

    @property
    def adds(self) -> tuple[Column, ...]:
        return tuple(
            Column(f"{self.output or f'{self.column}_pii'}_{kind}", pa.int64(), f"{kind} patterns in {self.column}")
            for kind in self.kinds
        )

    def label(self, rows: pa.Table, ctx: Context) -> dict[str, pa.Array]:
        texts = pc.fill_null(flat(rows[self.column]), "")
        columns = {}
        for kind, column in zip(self.kinds, self.adds, strict=True):
            counted = _COUNTS.get(kind)
            if counted is None:
                counts = pc.count_substring_regex(texts, pattern=PATTERNS[kind])
            else:
                counts = count_matches(texts, PATTERNS[kind], counted)
            columns[column.name] = pa.array(np.asarray(counts, np.int64))
        return columns
