"""Which candidates are IBANs by their check digits, or telephone numbers by how many digits they have."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Bools = npt.NDArray[np.bool_]
_SHORTEST_PHONE, _LONGEST_PHONE = 7, 15
_IBANS = """
    AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24
    FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21
    LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22
    RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30
"""
_COUNTRIES = [(entry[:2], int(entry[2:])) for entry in _IBANS.split()]
_WIDEST = max(size for _, size in _COUNTRIES)
IBAN = "|".join(
    rf"\b(?:{'|'.join(name for name, size in _COUNTRIES if size == length)})\d\d(?: ?[A-Z0-9]){{{length - 4}}}\b"
    for length in sorted({size for _, size in _COUNTRIES})
)
"""What an IBAN looks like, with a blank between any two characters or none: as long as its country has it (the registry
of ISO 13616).
"""


def phone_holds(numbers: pa.Array) -> Bools:
    """Whether each has as many digits as a telephone number (at most 15: ITU-T E.164)."""
    digits = np.asarray(pc.count_substring_regex(numbers, pattern=r"\d"))
    return (digits >= _SHORTEST_PHONE) & (digits <= _LONGEST_PHONE)


def iban_holds(ibans: pa.Array) -> Bools:
    """Whether each of what looks like an `IBAN` is 1 modulo 97, its first four characters last (ISO 13616)."""
    compact = pc.replace_substring(ibans, pattern=" ", replacement="")
    letters = _characters(pc.utf8_rpad(compact, _WIDEST, " "), _WIDEST).astype(np.int64)
    values = np.where(letters >= ord("A"), letters - ord("A") + 10, letters - ord("0"))
    rest = np.zeros(len(values), np.int64)
    for place in (*range(4, _WIDEST), *range(4)):
        value = values[:, place]
        further = (rest * np.where(value > 9, 100, 10) + value) % 97
        rest = np.where(value >= 0, further, rest)
    return rest == 1


def _characters(texts: pa.Array, width: int) -> npt.NDArray[np.uint8]:
    """ASCII texts of one width as a matrix of their characters."""
    data = b"".join(texts.cast(pa.binary()).to_pylist())
    return np.frombuffer(data, np.uint8).reshape(len(texts), width)
