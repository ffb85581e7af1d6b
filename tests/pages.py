"""The fenced blocks of the pages, and a folder in which what they say can be run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from datakit.apply import apply
from datakit.tokenize import Train
from schemas import PROMPTS, TOKENS, Dataset
from tests.model_server import ModelServer

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/methods").glob("*.md"))]
RUNS = {"sh": ["bash", "-euo", "pipefail"], "python": [sys.executable], "sql": [sys.executable, "-c"]}
SHOWN = {"text", "json", "jsonc", "ini", "jinja"}
SQL = """import duckdb, os, sys
from datakit.sql import connect
connection = connect("quiver-data") if os.path.isdir("quiver-data") else duckdb.connect()
rows = connection.sql(open(sys.argv[1]).read()).fetchall()
assert rows
print(rows[:3])"""
_SERVED = "localhost:8000"
"""Where the pages have a server of models: a fake one of the test's own stands in for it."""
_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<mark>[^\n]*?) -->\n\n?)?^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.M | re.S
)

SETTINGS = """
[RestIteration]
prompts_per_iteration = 68
samples_per_prompt = 2

[RejectionSamplingIteration]
prompts_per_iteration = 68
samples_per_prompt = 2

[DpoIteration]
prompts_per_iteration = 68
samples_per_prompt = 2

[SpinIteration]
prompts_per_iteration = 68

[digits]
digits = 3
demonstrations = 384
wrong_share = 0.2
prompts = 160
held_out = 24
pair_prompts = 48
pair_samples = 4
pairs_per_prompt = 2
max_length = 48
model = {"num_layers": 1, "hidden_size": 32, "ffn_hidden_size": 64, "num_attention_heads": 2, "num_query_groups": 2}
base = {"epochs": 12, "global_batch_size": 16, "optim": {"lr": 5e-3}}
reward = {"epochs": 1, "global_batch_size": 16}
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: `mark` is the comment above it ("slow", "not run: why", or none)."""

    page: Path
    line: int
    language: str
    text: str
    mark: str

    @property
    def runs(self) -> bool:
        """Whether it is executed at all."""
        return self.language in RUNS and not self.mark.startswith("not run")


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in its order."""
    text = page.read_text(encoding="utf-8")
    listed = []
    for match in _BLOCK.finditer(text):
        body = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
        line = text.count("\n", 0, match.start("text"))
        listed.append(Block(page, line, match["language"], body, (match["mark"] or "").strip()))
    return listed


def prepare(folder: Path) -> None:
    """What the pages suppose to be there: this repository's pages and environment, small settings, a tokenizer and
    token rows.
    """
    (folder / "docs").symlink_to(ROOT / "docs")
    (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    (folder / "luigi.cfg").write_text(SETTINGS)
    prompts = Dataset.from_arrow(PROMPTS.example(3), PROMPTS, str(folder / "prompts"))
    tokenizer = apply(Train(vocab_size=288), prompts, str(folder / "tokenizer"))
    rows = [[(7 * row + at) % 200 for at in range(12 + row % 9)] for row in range(24)]
    columns = {"input_ids": rows, "loss_mask": [[0, *[1] * (len(row) - 1)] for row in rows]}
    table = pa.table({"sample_id": [f"row-{number}" for number in range(24)], **columns})
    tokens = Dataset.from_arrow(TOKENS.conform(table), TOKENS, str(folder / "tokens"), parents={"tokenizer": tokenizer})
    assert tokens.num_rows == 24


def model(folder: Path, **sizes: Any) -> None:
    """A Llama folder of a few thousand weights with a chat template; `sizes` as its config.json calls them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 3)}
    vocabulary = {"<|im_start|>": 0, "<|im_end|>": 1, "<pad>": 2, **letters}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    small |= {"num_key_value_heads": 2, "max_position_embeddings": 512}
    ids = {"vocab_size": len(vocabulary), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = LlamaConfig(**ids, **small | sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def diffusion(folder: Path) -> None:
    """A Stable Diffusion of a few thousand weights."""
    from tests.trainers.images import folders

    folders.stable_diffusion(folder)


def execute(block: Block, folder: Path) -> None:
    """Run the block in `folder` as a person who pastes it would; AssertionError with all that it printed."""
    with ModelServer(model="llama") if _SERVED in block.text else nullcontext() as server:
        text = block.text if server is None else block.text.replace(_SERVED, f"127.0.0.1:{server.port}")
        _execute(block, text, folder)


def _execute(block: Block, text: str, folder: Path) -> None:
    script = folder / f".block-{block.line}.{block.language}"
    script.write_text(text, encoding="utf-8")
    command = [*RUNS[block.language], *([SQL] if block.language == "sql" else []), str(script)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LUIGI", "PYTHONPATH"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**kept, "PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500, check=False
    )  # fmt: skip
    place = f"{block.page.name}:{block.line}"
    assert done.returncode == 0, f"{place}\n{block.text}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
