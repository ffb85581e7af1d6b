"""template.image_prompt: the last turn as it stands."""

from __future__ import annotations

import pyarrow as pa

from datakit.op import Context
from datakit.template import ImagePrompt
from schemas import MESSAGES, PROMPTS
from tests.datakit.fakes import Example, prompts

EXAMPLES = [Example(ImagePrompt(), (prompts(5),))]


def test_it_is_the_content_of_the_last_turn() -> None:
    turns = [[("system", "Draw."), ("user", "a red square")], [("user", " two\n")], []]
    rows = [[{"role": role, "content": content} for role, content in row] for row in turns]
    table = pa.table({"messages": pa.array(rows, MESSAGES)})
    made = ImagePrompt().label(table, Context())
    assert made["prompt"].to_pylist() == ["a red square", " two\n", ""]
    assert PROMPTS["messages"].type == MESSAGES
