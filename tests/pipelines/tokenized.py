"""Small files through the stages to tokens, in one process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from datakit.apply import apply
from datakit.filter import Where
from datakit.io import Jsonl
from datakit.template import Chat
from datakit.tokenize import Mask, Train
from pipelines.graph.nodes import Table
from pipelines.graph.plan import Plan
from pipelines.runtime.resources import resource_of
from schemas import PROMPTS, Dataset


def tokenized(folder: Path, lengths: Sequence[int], limit: int, predicate: str) -> tuple[Table, Table]:
    """Two stages behind rows with answers of so many letters: those of at most `limit` tokens, then a filter's."""
    rows = ({"prompt": f"{number}", "response": "a" * length} for number, length in enumerate(lengths))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = Dataset.from_arrow(PROMPTS.example(3), PROMPTS, str(folder / "prompts"))
    apply(Train(vocab_size=288), prompts, str(folder / "tokenizer"), processes=1)
    plan = Plan(str(folder / "data"))
    tokenizer = plan.existing(str(folder / "tokenizer"), "dataset")
    read = plan.table("rows", Jsonl(files=(str(folder / "rows.jsonl"),), format="completions").pinned())
    chat = Chat(template="text", response="response", learn="last")
    written = plan.table("written", chat, read, tokenizer=tokenizer)
    tokens = plan.table("tokens", Mask(max_length=limit), written, tokenizer=tokenizer)
    kept = plan.table("kept", Where(predicate=predicate), tokens)
    given: list[Dataset] = []
    for node in (read, written, tokens, kept):
        opened = {name: resource_of(name, one, None) for name, one in node.resources.items()}
        given = [apply(node.op, given, node.url, resources=opened, processes=1)]
    return kept, plan.table("behind", Where(predicate="true"), kept)
