"""The one value that says how conversations become text."""

from __future__ import annotations

import pytest

from datakit.apply import apply
from datakit.template import Chat, Rendering
from schemas import PROMPTS
from schemas.errors import DataError
from tests.datakit.fakes import tokenizer


def test_what_is_set_wins_over_what_is_set_elsewhere() -> None:
    asked = Rendering(options={"a": 1}, date="2025-01-01")
    usual = Rendering(template="chatml", options={"a": 2, "b": 3}, date="2024-01-01", stop=("END",))
    both = Rendering(template="chatml", options={"a": 1, "b": 3}, date="2025-01-01", stop=("END",))
    assert asked.over(usual) == both
    assert both.settings == {"template": "chatml", "options": {"a": 1, "b": 3}, "date": "2025-01-01"}


@pytest.mark.parametrize("limit", [None, 0.5])
def test_the_templates_own_message_reaches_the_user_and_the_row(put, tmp_path, limit) -> None:
    refuses = (
        "{% if '1' in messages[0].content %}{{ raise_exception('no ' ~ messages[0].content ~ '\x1b') }}{% endif %}"
    )
    rows, op = put(PROMPTS.example(2), schema=PROMPTS), Chat(template=refuses + "{{ messages[0].content }}")
    if limit is None:
        with pytest.raises(DataError) as fault:
            apply(op, rows, str(tmp_path / "out"), resources=tokenizer())
        assert fault.value.found == "template-failed 1 (TemplateError: no question 1\\u001b)"
        assert "prompt_id=prompt_id 1" in fault.value.what and fault.value.next == "--quiver-max-rejected 0.5"
    else:
        made = apply(op, rows, str(tmp_path / "out"), resources=tokenizer(), max_rejected=limit)
        [kept] = made.read_rejected().to_pylist()
        assert kept["threshold"] == "TemplateError: no question 1\\u001b"
