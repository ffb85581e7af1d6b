"""DPO on real pairs against TRL's DPOTrainer: the same weights, texts, optimizer and pairs per step.

    python -m tests.benchmarks.preference_rows [--rounds 3] [--pairs 256] [--rows FILE.json.gz] [--shape small|tiny]

Pairs are `instruction`, `input`, `chosen`, `rejected` as ids of a byte-level BPE trained on them. Three sides, each in
a process of its own, in turns, at one epoch and at three: Quiver (`label.logprobs` of the reference, then the whole
run with its checkpoint), TRL with a reference network beside the policy, TRL with `precompute_ref_log_probs`. Seconds
are CPU seconds of the process divided by threads (`--clock wall` for the clock on the wall), from the rows and the
loaded libraries to the trained and saved weights; memory is the greatest resident set of the process.
TRL is read from `build/trl`, where `make test-slow` puts it, or from the environment.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks._sides import SHAPES, llama
from tests.benchmarks.sft_rows import byte_level

ROOT = Path(__file__).resolve().parents[2]
TRL = ROOT / "build" / "trl"
SIDES = ("quiver", "trl", "trl-precomputed")
VOCABULARY, LONGEST, BATCH, BETA = 2048, 512, 16, 0.1
DEFAULT = ROOT.parent / "shared" / "data" / "instruction-preference" / "instruction-data-with-preference.json.gz"
OPTIM: dict[str, Any] = {"lr": 1e-4, "weight_decay": 0.01, "clip_grad": 1.0, "betas": [0.9, 0.98]}


def prepared(path: Path, folder: Path, shape: str, count: int) -> None:
    """Texts and ids of `count` pairs, and a network of `shape` as a folder that both sides start from."""
    import torch

    with gzip.open(path, "rt", encoding="utf-8") as file:
        pairs = json.load(file)[:count]
    texts = [
        {
            "prompt": "\n".join(filter(None, (row["instruction"], row.get("input")))) + "\n",
            "chosen": row["chosen"],
            "rejected": row["rejected"],
        }
        for row in pairs
    ]
    tokenizer = byte_level([" ".join(row.values()) for row in texts], VOCABULARY, folder / "tokenizer.json")
    ids = {
        side: [encoding.ids for encoding in tokenizer.encode_batch([row[side] for row in texts])] for side in texts[0]
    }
    (folder / "texts.json").write_text(json.dumps(texts))
    (folder / "ids.json").write_text(json.dumps(ids))
    torch.manual_seed(0)
    llama(shape, VOCABULARY, LONGEST, pad_token_id=0, eos_token_id=1).save_pretrained(folder / "model")
    (folder / "model" / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (folder / "model" / "tokenizer_config.json").write_text('{"eos_token": "<eos>", "pad_token": "<pad>"}')


def quiver(folder: Path, epochs: int) -> Callable[[], None]:
    """The reference's log-probs as columns, then the run."""
    import pyarrow as pa

    from datakit.apply import apply
    from datakit.label import Logprobs
    from datakit.run.resource import Resource
    from schemas import PAIRS
    from schemas.dataset import Dataset
    from schemas.settings import parse
    from trainers.config import Run
    from trainers.engine.inference.frozen import open_frozen
    from trainers.engine.weights.import_hf import import_hf
    from trainers.run import execute

    ids = json.loads((folder / "ids.json").read_text())
    columns: dict[str, Any] = {"pair_id": [f"p{number}" for number in range(len(ids["prompt"]))]}
    for side in ("chosen", "rejected"):
        pairs = zip(ids["prompt"], ids[side], strict=True)
        rows = [(prompt, [*answer, 1]) for prompt, answer in pairs]
        columns[f"{side}_ids"] = [prompt + answer for prompt, answer in rows]
        columns[f"{side}_mask"] = [[0] * len(prompt) + [1] * len(answer) for prompt, answer in rows]
    columns["source"] = pa.nulls(len(ids["prompt"]), pa.string())
    mine = folder / f"quiver-{os.getpid()}"
    pairs_ = Dataset.from_arrow(pa.table(columns, schema=PAIRS.arrow), PAIRS, str(mine / "pairs"))
    start = str(mine / "start")
    import_hf(str(folder / "model"), start, check="off", say=lambda line: None)
    sides = tuple((f"{side}_ids", f"{side}_mask", f"ref_logprob_{side}") for side in ("chosen", "rejected"))

    def work() -> None:
        opened = Resource("start", functools.partial(open_frozen, start, threads=1))
        data = apply(Logprobs(per="row", columns=sides), pairs_, str(mine / "data"), resources={"model": opened})
        settings = {"algorithm": "dpo", "settings": {"beta": BETA}, "optim": OPTIM, "epochs": epochs}
        places = {"data": data.url, "init": start, "out": str(mine / "out"), "global_batch_size": BATCH}
        execute(parse(Run, {**settings, **places}))

    return work


def trl(folder: Path, epochs: int, precomputed: bool) -> Callable[[], None]:
    """DPOTrainer, its reference beside it or asked once."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    texts = json.loads((folder / "texts.json").read_text())
    given = DPOConfig(
        output_dir=str(folder / "trl"),
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH,
        beta=BETA,
        max_length=LONGEST,
        precompute_ref_log_probs=precomputed,
        precompute_ref_batch_size=BATCH,
        learning_rate=OPTIM["lr"],
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        adam_beta2=OPTIM["betas"][1],
        weight_decay=OPTIM["weight_decay"],
        max_grad_norm=OPTIM["clip_grad"],
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token="<pad>", eos_token="<eos>"
    )

    def opened() -> Any:
        return AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)

    def work() -> None:
        trainer = DPOTrainer(
            model=opened(),
            ref_model=None if precomputed else opened(),
            args=given,
            train_dataset=Dataset.from_list(texts),
            processing_class=tokenizer,
        )
        trainer.train()
        trainer.save_model()

    return work


def measured(chosen: argparse.Namespace) -> dict[str, float]:
    """Seconds and MiB of one side in this process."""
    import torch

    torch.set_num_threads(chosen.threads)
    if chosen.side == "quiver":
        work = quiver(chosen.folder, chosen.epochs)
    else:
        work = trl(chosen.folder, chosen.epochs, chosen.side == "trl-precomputed")
    clock = time.perf_counter if chosen.clock == "wall" else lambda: time.process_time() / chosen.threads
    began = clock()
    work()
    return {"seconds": clock() - began, "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def side(name: str, epochs: int, chosen: argparse.Namespace, folder: Path) -> dict[str, float]:
    """One side in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.preference_rows", "--side", name]
    command += ["--folder", str(folder), "--epochs", str(epochs), "--threads", str(chosen.threads)]
    path = os.pathsep.join([str(ROOT), *([str(TRL)] if name != "quiver" and TRL.is_dir() else [])])
    environment = {**os.environ, "OMP_NUM_THREADS": str(chosen.threads), "PYTHONPATH": path}
    done = subprocess.run(
        [*command, "--clock", chosen.clock], capture_output=True, text=True, check=False, env=environment, cwd=ROOT
    )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Print seconds and memory of each side, and TRL's seconds over Quiver's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=DEFAULT)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=["cpu", "wall"], default="cpu")
    for name, kind in (("--side", str), ("--folder", Path), ("--epochs", int)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.side:
        print(json.dumps(measured(chosen)))
        return
    if not chosen.rows.is_file():
        print(f"skipped: no pairs at {chosen.rows} (--rows names a JSON file of instruction, chosen, rejected)")
        return
    if not (TRL / "trl").is_dir() and importlib.util.find_spec("trl") is None:
        print("skipped: TRL is not in build/trl (make test-slow puts it there) nor installed")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared(chosen.rows, folder, chosen.shape, chosen.pairs)
        for epochs in (1, 3):
            figures: dict[str, list[dict[str, float]]] = {each: [] for each in SIDES}
            for _round in range(chosen.rounds):
                for each in SIDES:
                    figures[each].append(side(each, epochs, chosen, folder))
            middle = {
                each: {key: statistics.median(one[key] for one in taken) for key in ("seconds", "MiB")}
                for each, taken in figures.items()
            }
            sizes = "   ".join(f"{each} {one['seconds']:.1f} s {one['MiB']:,.0f} MiB" for each, one in middle.items())
            print(f"{epochs} epoch{'s' if epochs > 1 else ''}, {chosen.pairs} pairs: {sizes}")
            ratios = (
                f"{each} / quiver {middle[each]['seconds'] / middle['quiver']['seconds']:.2f}" for each in SIDES[1:]
            )
            print("   " + "   ".join(ratios))


if __name__ == "__main__":
    main()
