"""label.pii: counts by kind against hand-made texts and independent checks; hostile text takes linear time."""

from __future__ import annotations

import random
import time

import numpy as np
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.columns.card_numbers import card_numbers
from datakit.columns.check_digits import iban_holds
from datakit.label import Pii
from datakit.label.pii import PATTERNS
from datakit.op import Context
from schemas.errors import ConfigError
from tests.datakit.fakes import Example, responses

EXAMPLES = [
    Example(Pii(), (responses("a@b.org", "call +49 30 123456 or 4111 1111 1111 1111", ""),)),
    Example(Pii(kinds=("iban",), output="seen"), (responses("DE89 3704 0044 0532 0130 00"),)),
]

CASES = [
    ("email", "Write to Jane.Doe+x@mail.example.co.uk, or j@d.org.", 2),
    ("email", "a@b, @home, user@localhost, a@b.c", 0),
    ("phone", "+49 30 1234567, +1-202-555-0143, (202) 555-0143, 202.555.0143", 4),
    ("phone", "12345, 2024-10-11, 3 + 4 = 7, +5 apples", 0),
    ("phone", "What is 23+456? 2+1000, 0.1+123.4, x+1234567, 12+3456789 and +1 23 456", 0),
    ("phone", "tel:+493012345678, (+49) 30 1234567; +1 (415) 555-2671", 3),
    ("ip", "10.0.0.255 and 2001:0db8:0000:0000:0000:ff00:0042:8329", 2),
    ("ip", "2001:db8::1, [fe80::1ff:fe23:4567:890a]:80, FD00::1 and 2a02:1:2:3:4:5::6", 4),
    ("ip", "a[1::2], std::deque, face::bed, 12::30, ::1, 2001:db8:1", 0),
    ("ip", "256.1.1.1, 1.2.3, 12:30:45", 0),
    ("card", "4111 1111 1111 1111, 5500-0000-0000-0004 and 378282246310005", 3),
    ("card", "4111 1111 1111 1111 12/25; 4111-1111-1111-1111 123; 3782 822463 10005 0427", 3),
    ("card", "12 4111 1111 1111 1111; 0427 4111 1111 1111 1111; 7 5500000000000004 9", 3),
    ("card", "4111 1111 1111 1111 5500 0000 0000 0004 and 41 11 11 11 11 11 11 11 and 6212 3456 7890 1234 569", 4),
    ("card", "4111 1111 1111 1112, 0000000000000000, 12345678901234567890123", 0),
    ("iban", "DE89 3704 0044 0532 0130 00 AND GB82WEST12345698765432, FR1420041010050500013M02606.", 3),
    ("iban", "DE88 3704 0044 0532 0130 00, XX89370400440532013000, DE8937040044053201300", 0),
    ("ssn", "123-45-6789 and 899-01-0001", 2),
    ("ssn", "000-45-6789, 666-45-6789, 900-45-6789, 123-00-6789, 123-45-0000, 123-45-67890", 0),
]


@pytest.mark.parametrize(("kind", "text", "count"), CASES)
def test_by_hand(kind, text, count):
    rows = responses(text, "", f"{text}\n{text}", "\x02\x03")
    counts = Pii(kinds=(kind,)).label(rows, Context())[f"response_pii_{kind}"]
    assert counts.to_pylist() == [count, 0, 2 * count, 0]


def test_as_columns_for_a_predicate(put, tmp_path):
    rows = pa.table({"response": pa.array(["a@b.org", None, "x"], pa.string())})
    out = apply(Pii(kinds=("email", "card")), put(rows), str(tmp_path / "o")).read()
    assert out["response_pii_email"].to_pylist() == [1, 0, 0] and out["response_pii_card"].to_pylist() == [0, 0, 0]


def luhn(digits):
    total = 0
    for place, digit in enumerate(map(int, reversed(digits))):
        total += digit if place % 2 == 0 else sum(divmod(2 * digit, 10))
    return total % 10 == 0


def test_luhn_against_digit_by_digit():
    rng = random.Random(4)
    numbers = ["".join(rng.choices("0123456789", k=rng.randrange(13, 20))) for _ in range(2000)]
    assert card_numbers(pa.array(numbers)).tolist() == [luhn(number) for number in numbers]
    assert 150 < sum(map(luhn, numbers)) < 250


def test_iban_against_whole_numbers():
    rng = random.Random(4)
    bodies = ["".join(rng.choices("0123456789", k=18)) for _ in range(300)]
    made = []
    for body in bodies:
        check = 98 - int(f"{body}131400") % 97
        made += [f"DE{check:02d}{body}", f"DE{(check + 1) % 97:02d}{body}"]
    expected = [int(f"{one[4:]}1314{one[2:4]}") % 97 == 1 for one in made]
    assert iban_holds(pa.array(made)).tolist() == expected and sum(expected) >= 300


@pytest.mark.parametrize("unit", ["1", "1 ", "a@", "a.", "A1", "DE89 ", "+1(", "1.", "a@a.", "12-", "1111 ", "\x02"])
def test_hostile_text_takes_linear_time(unit):
    def seconds(size):
        rows = responses((unit * size)[:size])
        start = time.process_time()
        Pii().label(rows, Context())
        return time.process_time() - start

    assert seconds(1 << 19) < 12 * max(seconds(1 << 17), 0.01)


def test_settings_are_checked():
    assert {*PATTERNS} == {*Pii().kinds} and np.all([Pii(kinds=(kind,)).adds for kind in PATTERNS])
    for wrong in ((), ("email", "email")):
        with pytest.raises(ConfigError):
            Pii(kinds=wrong)
