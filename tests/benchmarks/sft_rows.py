"""SFT on real rows against TRL's SFTTrainer: the same tokens, shapes, optimizer and rows per step.

    python -m tests.benchmarks.sft_rows [--rounds 3] [--steps 12] [--rows FILE.jsonl.gz] [--shape small|tiny]

Rows are questions and answers (`question`, `answer`; by default GSM8K's training part) as ids of a byte-level BPE
trained on them. Three sides, each in a process of its own, in turns: Quiver (`trainers.engine`, rows laid end to end),
TRL with its default padding, TRL with packing. Useful tokens are those of the rows, padding left out. Times are CPU
seconds of the process divided by threads (`--clock wall` for the clock on the wall), from the third step to the last.
TRL is read from `build/trl`, where `make test-slow` puts it, or from the environment.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks._sides import DATA, SHAPES, apart, engine, has_trl, llama, stored

SIDES = ("quiver", "trl-padded", "trl-packed")
VOCABULARY, LONGEST, BATCH, SKIPPED = 2048, 512, 16, 2
DEFAULT = DATA / "gsm8k-train" / "train.jsonl.gz"


def byte_level(texts: list[str], size: int, file: Path) -> Any:
    """A byte-level BPE of `size` tokens trained on `texts`, saved as `file`; <pad> is 0, <eos> 1."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(file))
    return tokenizer


def prepared(path: Path, folder: Path) -> Path:
    """Ids and loss masks of the rows, as a Parquet file that both sides read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    tokenizer = byte_level(
        [row["question"] + "\n" + row["answer"] for row in rows], VOCABULARY, folder / "tokenizer.json"
    )
    questions = tokenizer.encode_batch([row["question"] + "\n" for row in rows])
    answers = tokenizer.encode_batch([row["answer"] for row in rows])
    ids, masks = [], []
    for question, answer in zip(questions, answers, strict=True):
        both = [*question.ids, *answer.ids, 1]
        if len(both) <= LONGEST:
            ids.append(both)
            masks.append([0] * len(question.ids) + [1] * (len(answer.ids) + 1))
    table = pa.table({"input_ids": pa.array(ids, pa.list_(pa.int32())), "mask": pa.array(masks, pa.list_(pa.int8()))})
    pq.write_table(table, folder / "rows.parquet")
    return folder / "rows.parquet"


class Stopwatch:
    """Seconds and useful tokens from the end of the second step on."""

    def __init__(self, wall: bool, threads: int) -> None:
        self.clock: Callable[[], float] = time.perf_counter if wall else lambda: time.process_time() / threads
        self.steps = self.tokens = 0
        self.began = 0.0

    def step(self, tokens: int) -> None:
        """A step over `tokens` useful tokens has ended."""
        self.steps += 1
        if self.steps == SKIPPED:
            self.began = self.clock()
        elif self.steps > SKIPPED:
            self.tokens += tokens

    def figures(self) -> dict[str, float]:
        """Tokens and seconds."""
        return {"tokens": self.tokens, "seconds": self.clock() - self.began}


def quiver(folder: Path, shape: str, steps: int, watch: Stopwatch) -> None:
    """`steps` steps of the engine."""
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / "rows.parquet")
    data = stored(folder / f"tokens-{os.getpid()}", rows["input_ids"], rows["mask"])
    places = {"data": data.url, "out": str(folder / "out")}
    feed, train = engine(shape, VOCABULARY, LONGEST, max_steps=steps, global_batch_size=BATCH, **places)
    for read in feed.steps(0, steps):
        train(read)
        watch.step(int(feed.source.lengths_NS[read.rows].sum()))


def trl(folder: Path, shape: str, steps: int, watch: Stopwatch, packing: bool) -> None:
    """`steps` steps of SFTTrainer; packing fills rows of `LONGEST` tokens, about as many tokens a step."""
    import pyarrow.parquet as pq
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    rows = pq.read_table(folder / "rows.parquet")
    table = {"input_ids": rows["input_ids"].to_pylist(), "completion_mask": rows["mask"].to_pylist()}
    mean = sum(map(len, table["input_ids"])) / rows.num_rows
    batch = max(1, round(BATCH * mean / LONGEST)) if packing else BATCH
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token="<pad>", eos_token="<eos>"
    )
    given = SFTConfig(
        output_dir=str(folder / "trl"),
        max_steps=steps,
        per_device_train_batch_size=batch,
        max_length=LONGEST,
        packing=packing,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        adam_beta2=0.98,
        weight_decay=0.01,
        max_grad_norm=1.0,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )

    class Watch(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            num_tokens = (logs or {}).get("num_tokens")
            if num_tokens is not None:
                watch.step(int(num_tokens) - self.seen)
                self.seen = int(num_tokens)

        seen = 0

    trainer = SFTTrainer(
        model=llama(shape, VOCABULARY, LONGEST, pad_token_id=0, eos_token_id=1),
        args=given,
        train_dataset=Dataset.from_dict(table),
        processing_class=tokenizer,
        callbacks=[Watch()],
    )
    trainer.train()


def main() -> None:
    """Print useful tokens per second of each side, and Quiver's ratio to each of TRL's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=DEFAULT)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=["cpu", "wall"], default="cpu")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.side:
        watch = Stopwatch(chosen.clock == "wall", chosen.threads)
        if chosen.side == "quiver":
            quiver(chosen.folder, chosen.shape, chosen.steps, watch)
        else:
            trl(chosen.folder, chosen.shape, chosen.steps, watch, chosen.side == "trl-packed")
        print(json.dumps(watch.figures()))
        return
    if not chosen.rows.is_file():
        print(f"skipped: no rows at {chosen.rows} (--rows names a JSONL file of questions and answers)")
        return
    if not has_trl():
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared(chosen.rows, folder)
        speeds: dict[str, list[float]] = {name: [] for name in SIDES}
        for _round in range(chosen.rounds):
            for each in SIDES:
                given = {"folder": folder, "shape": chosen.shape, "steps": chosen.steps, "clock": chosen.clock}
                figures = apart("sft_rows", each, chosen.threads, **given)
                speeds[each].append(figures["tokens"] / figures["seconds"])
    middle = {name: statistics.median(values) for name, values in speeds.items()}
    print("   ".join(f"{name} {speed:,.0f} useful tokens/s" for name, speed in middle.items()))
    print("   ".join(f"quiver / {name} {middle['quiver'] / middle[name]:.2f}" for name in SIDES[1:]))


if __name__ == "__main__":
    main()
