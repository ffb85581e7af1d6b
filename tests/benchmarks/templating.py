"""Conversations to token ids with a loss mask, against Hugging Face's `apply_chat_template` and tokenizer row
by row.

"ours" is template.chat and tokenize.mask over columns, with contents kept from being control tokens and a
mask over every assistant turn. "huggingface" renders and encodes each conversation (no mask);
"huggingface-batch" hands all texts to the tokenizer at once. Printed are rows per second of each, and of our
two halves.

    python -m tests.benchmarks.templating [--rows 20000] [--repeats 3]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

ROWS_PER_CHUNK = 8192


def chats(rows: int) -> list[list[dict[str, str]]]:
    """Conversations of two to six turns with 20 to 120 words each, common words more often than rare ones."""
    rng = np.random.default_rng(0)
    words = np.array([f"{word:x}" for word in rng.integers(0, 1 << 20, 5000)])
    share = 1 / np.arange(1, len(words) + 1)
    drawn = rng.choice(words, 1_000_000, p=share / share.sum()).tolist()
    conversations = []
    for turns in (2 * rng.integers(1, 4, rows)).tolist():
        starts, sizes = rng.integers(0, len(drawn) - 120, turns), rng.integers(20, 120, turns)
        texts = (" ".join(drawn[at : at + size]) for at, size in zip(starts, sizes, strict=True))
        conversations.append([{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)])
    return conversations


def vocabulary(rows: list[list[dict[str, str]]], folder: Path) -> Path:
    """A folder with a trained tokenizer of 8000 tokens and the chatml template."""
    import tokenizers

    from datakit.templating.named import TEMPLATES
    from datakit.tokenizers.tokenizer import Tokenizer

    own = tokenizers.Tokenizer(tokenizers.models.BPE())
    own.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=8000, show_progress=False, special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    own.train_from_iterator((turn["content"] for row in rows[:2000] for turn in row), trainer)
    made = Tokenizer("bench", own.to_str(), TEMPLATES["chatml"], None, "<|im_end|>", None)
    for name, data in made.files.items():
        (folder / name).write_bytes(data)
    return folder


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median CPU seconds of `repeats` runs, after one that warms up; children's count once they are done."""
    work()
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, compare ids and print."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from transformers import AutoTokenizer

    from datakit.op import Context
    from datakit.template import Chat
    from datakit.tokenize import Mask
    from datakit.tokenizers.tokenizer import Tokenizer
    from schemas import MESSAGES

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    rows = chats(options.rows)
    with tempfile.TemporaryDirectory(prefix="quiver-bench-") as folder:
        place = vocabulary(rows, Path(folder))
        theirs = AutoTokenizer.from_pretrained(str(place))
        context = Context(resources={"tokenizer": Tokenizer.of_folder(str(place))})
    table = pa.table({"sample_id": [str(n) for n in range(len(rows))], "messages": pa.array(rows, MESSAGES)})
    chunks = [table.slice(at, ROWS_PER_CHUNK) for at in range(0, len(rows), ROWS_PER_CHUNK)]

    def templated() -> list[pa.Table]:
        labels = [Chat().label(chunk, context) for chunk in chunks]
        return [chunk.append_column("pieces", one["pieces"]) for chunk, one in zip(chunks, labels, strict=True)]

    def ours() -> list[list[int]]:
        ids = [Mask().label(chunk, context)["input_ids"] for chunk in templated()]
        return pa.concat_arrays(ids)

    def text(row: list[dict[str, str]]) -> str:
        return str(theirs.apply_chat_template(row, tokenize=False))

    def by_row() -> list[list[int]]:
        return [theirs(text(row), add_special_tokens=False)["input_ids"] for row in rows]

    def by_batch() -> list[list[int]]:
        return list(theirs([text(row) for row in rows], add_special_tokens=False)["input_ids"])

    assert ours().to_pylist() == by_batch(), "ids differ"
    ways = {"ours": ours, "ours, template": templated, "huggingface": by_row, "huggingface-batch": by_batch}
    ways["huggingface, template"] = lambda: [text(row) for row in rows]
    taken = {way: seconds(work, options.repeats) for way, work in ways.items()}
    for way, time_taken in taken.items():
        ratio = time_taken / taken["ours"]
        print(f"{way:<22} {len(rows) / time_taken:9.0f} rows per CPU second  {ratio:5.2f} times ours")


if __name__ == "__main__":
    main()
