"""A tokenizer as a row: its file, its chat template and the names of its special tokens."""

from __future__ import annotations

import pyarrow as pa

from schemas.schema import Column, Schema

VOCABULARIES = Schema(
    "vocabularies",
    1,
    (
        Column("name", pa.string(), "what to call it"),
        Column("tokenizer_json", pa.string(), "the tokenizer, in the `tokenizers` library's JSON"),
        Column("chat_template", pa.string(), "Jinja template of a conversation", nullable=True),
        Column("bos_token", pa.string(), "text of the token that opens a text", nullable=True),
        Column("eos_token", pa.string(), "text of the token that ends an answer", nullable=True),
        Column("pad_token", pa.string(), "text of the token that fills", nullable=True),
    ),
    key=("name",),
)
