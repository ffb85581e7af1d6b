"""What steers a terminal or is not seen reaches no screen, whichever field of an error holds it, whoever prints it."""

from __future__ import annotations

import functools
import sys
import time
import unicodedata

import pytest

from pipelines.cli.console import say
from schemas.errors import DataError, QuiverError, escaped, printable
from schemas.store.storage import shown

FIELDS = ("expected", "found", "where", "kept", "next")
FILLERS = ["\u034f", "\u115f", "\u1160", "\u3164", "\uffa0", "\ufe0f", "\U000e0100", "\ufdd0", "\uffff"]


@functools.cache
def unseen() -> frozenset[str]:
    every = (chr(number) for number in range(sys.maxunicode + 1))
    return frozenset(one for one in every if unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp"))


def clean(text: str) -> bool:
    return {*text}.isdisjoint({*unseen(), *FILLERS} - {"\n", "\t"})


def test_every_unseen_character_is_written_as_its_number():
    for character in (*unseen(), *FILLERS):
        if character not in "\n\t":
            text = escaped(f"a{character}b")
            number = int(text[3:-1], 16)
            assert text[:2] == "a\\" and text[-1] == "b" and chr(number) == character
    assert escaped("Zürich 東京 \t🙂\n") == "Zürich 東京 \t🙂\n", "what is seen stays"
    assert printable("a\nb") == "a\\nb"


@pytest.mark.parametrize("field", ["what", *FIELDS])
@pytest.mark.parametrize("character", ["\x1b[2J", "\udc80", "\u200b", "\u2028", "\u202e", "\U000e0041", "\r", "\x9b"])
def test_no_field_of_an_error_carries_it_to_the_screen(field, character, capsys):
    hostile = f"before{character}after"
    given = {"what": "said", **({field: hostile} if field != "what" else {})}
    error = DataError("slug", hostile if field == "what" else "said", **{k: v for k, v in given.items() if k != "what"})
    for text in (error.render(), str(error), error.as_json()):
        assert clean(text), text
        assert text.encode()
    say(error.what)
    say(hostile)
    assert clean(capsys.readouterr().err)
    assert clean(str(QuiverError("bug", hostile)))


def test_masking_an_address_is_linear():
    for text in (
        "a" * 200_000,
        "a." * 100_000,
        "://" * 60_000,
        "s3://" + "a?" * 100_000,
        "a@" * 100_000,
        "://a" * 50_000,
    ):
        started = time.monotonic()
        shown(text)
        assert time.monotonic() - started < 2.0
    assert shown("s3://user:pa@ss@host/path?token=1 and https://b?c d") == "s3://host/path and https://b d"
    assert shown("1abc://user:secret@host") == "1abc://host"
