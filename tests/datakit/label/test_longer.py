"""label.longer: code points are counted, and equal lengths are half a win."""

from __future__ import annotations

import pyarrow as pa

from datakit.label import Longer
from datakit.op import Context
from tests.datakit.fakes import Example

EXAMPLES = [Example(Longer())]


def test_the_longer_answer_wins():
    rows = pa.table({"chosen": ["abc", "a", "𝄞é", ""], "rejected": ["ab", "bc", "ab", ""]})
    assert Longer().label(rows, Context())["longer_chosen"].to_pylist() == [1.0, 0.0, 0.5, 0.5]
