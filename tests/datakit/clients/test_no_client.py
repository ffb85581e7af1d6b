"""A backend whose `open` returns something else than what an operation asks."""

from __future__ import annotations

import pyarrow as pa
import pytest

from datakit.clients.replies import scores
from datakit.op import Context
from schemas.errors import ConfigError


class Half:
    """A scorer that does not say what it reads."""

    def score(self, rows: pa.Table) -> dict[str, pa.Array]:
        return {"reward": pa.array([0.0] * rows.num_rows)}


def test_what_is_no_client_is_refused_with_what_it_lacks() -> None:
    with pytest.raises(ConfigError, match=r"test_no_client\.Half is no Scorer") as fault:
        scores(Context(resources={"scorer": Half()}), pa.table({"response": ["x"]}), ("reward",))
    assert fault.value.found == "one without takes" and "score, takes" in fault.value.expected
