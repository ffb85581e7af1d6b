"""DPO and distillation on real rows against TRL's trainers: the same weights, texts, optimizer and rows per step.

    python -m tests.benchmarks.trl_trainers [--method dpo|kd|all] [--rounds 3] [--count 256] [--rows FILE.json.gz]
        [--keep tests/results/costs.json]

Rows are `instruction`, `input`, `chosen`, `rejected` as ids of a byte-level BPE trained on them. All sides, each in a
process of its own, in turns, at one epoch and at three:

    dpo    Quiver: `label.logprobs` of the reference, then the whole run with its checkpoint
           TRL: DPOTrainer with a reference network beside the policy, and with `precompute_ref_log_probs`
    kd     Quiver: `label.topk` of the teacher (100 ids), then the whole run with its checkpoint
           TRL: GKDTrainer off policy (lmbda 0) with forward KL over all ids, the teacher asked at every step

Seconds are CPU seconds of the process and its children divided by threads (`--clock wall` for the clock on the wall),
from the rows and the loaded libraries to the trained and saved weights; memory is the greatest resident set. A ratio is
of one round, in which the sides follow each other; every second round has them in the other order.
TRL is read from `build/trl`, where `make test-slow` puts it, or from the environment.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks._sides import (
    DATA,
    SHAPES,
    apart,
    cpu_seconds,
    has_trl,
    in_turns,
    keep,
    llama,
    middle,
    peak_mib,
    ratios,
    stored,
)
from tests.benchmarks.sft_rows import byte_level

SIDES = {"dpo": ("quiver", "trl", "trl-precomputed"), "kd": ("quiver", "trl")}
VOCABULARY, LONGEST, BATCH, BETA = 2048, 512, 16, 0.1
DEFAULT = DATA / "instruction-preference" / "instruction-data-with-preference.json.gz"
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
    for seed, name in enumerate(("model", "teacher")):
        torch.manual_seed(seed)
        llama(shape, VOCABULARY, LONGEST, pad_token_id=0, eos_token_id=1).save_pretrained(folder / name)
        (folder / name / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
        (folder / name / "tokenizer_config.json").write_text('{"eos_token": "<eos>", "pad_token": "<pad>"}')


def stored_pairs(folder: Path) -> Any:
    """The rows as a dataset of token pairs; distillation learns the chosen ones."""
    import pyarrow as pa

    from schemas import PAIRS
    from schemas.dataset import Dataset

    ids = json.loads((folder / "ids.json").read_text())
    columns: dict[str, Any] = {"pair_id": [f"p{number}" for number in range(len(ids["prompt"]))]}
    for side in ("chosen", "rejected"):
        both = list(zip(ids["prompt"], ids[side], strict=True))
        columns[f"{side}_ids"] = [[*prompt, *answer, 1] for prompt, answer in both]
        columns[f"{side}_mask"] = [[0] * len(prompt) + [1] * (len(answer) + 1) for prompt, answer in both]
    columns["source"] = pa.nulls(len(ids["prompt"]), pa.string())
    return Dataset.from_arrow(pa.table(columns, schema=PAIRS.arrow), PAIRS, str(folder / f"pairs-{os.getpid()}"))


def quiver(method: str, folder: Path, epochs: int) -> Callable[[], None]:
    """What the frozen network says as columns, then the run."""
    from datakit.apply import apply
    from datakit.label import Logprobs, TopK
    from datakit.run.resource import Resource
    from schemas.settings import parse
    from trainers.config import Run
    from trainers.engine.inference.frozen import open_frozen
    from trainers.engine.weights.import_hf import import_hf
    from trainers.run import execute

    rows, mine = stored_pairs(folder), folder / f"quiver-{os.getpid()}"
    if method == "kd":
        table = rows.read()
        rows = stored(mine / "tokens", table["chosen_ids"], table["chosen_mask"])
    for name in ("model", "teacher"):
        import_hf(str(folder / name), str(mine / name), check="off", say=lambda line: None)
    sides = tuple((f"{side}_ids", f"{side}_mask", f"ref_logprob_{side}") for side in ("chosen", "rejected"))
    asked, op, settings = {
        "dpo": ("model", Logprobs(per="row", columns=sides), {"beta": BETA}),
        "kd": ("teacher", TopK(k=100), {}),
    }[method]

    def work() -> None:
        opened = Resource(asked, functools.partial(open_frozen, str(mine / asked), threads=1))
        data = apply(op, rows, str(mine / "data"), resources={"model": opened})
        learnt = {"algorithm": method, "settings": settings, "optim": OPTIM, "epochs": epochs}
        places = {"data": data.url, "init": str(mine / "model"), "out": str(mine / "out"), "global_batch_size": BATCH}
        execute(parse(Run, {**learnt, **places}))

    return work


def settings_of(folder: Path, epochs: int) -> dict[str, Any]:
    """What TRL's trainers have in common, as Quiver's run has it."""
    return {
        "output_dir": str(folder / "trl"),
        "num_train_epochs": epochs,
        "per_device_train_batch_size": BATCH,
        "max_length": LONGEST,
        "learning_rate": OPTIM["lr"],
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "adam_beta2": OPTIM["betas"][1],
        "weight_decay": OPTIM["weight_decay"],
        "max_grad_norm": OPTIM["clip_grad"],
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def trl(method: str, folder: Path, epochs: int, precomputed: bool) -> Callable[[], None]:
    """DPOTrainer, its reference beside it or asked once; GKDTrainer with its teacher."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    texts = json.loads((folder / "texts.json").read_text())
    common = settings_of(folder, epochs)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token="<pad>", eos_token="<eos>"
    )
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"

    def opened(name: str = "model") -> Any:
        return AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32)

    def preference() -> Any:
        asked = {"precompute_ref_log_probs": precomputed, "precompute_ref_batch_size": BATCH}
        return DPOTrainer(
            model=opened(),
            ref_model=None if precomputed else opened(),
            args=DPOConfig(beta=BETA, **asked, **common),
            train_dataset=Dataset.from_list(texts),
            processing_class=tokenizer,
        )

    def distillation() -> Any:
        turns = [(("user", row["prompt"]), ("assistant", row["chosen"] + "<eos>")) for row in texts]
        rows = [{"messages": [{"role": role, "content": text} for role, text in both]} for both in turns]
        return GKDTrainer(
            model=opened(),
            teacher_model=opened("teacher"),
            args=GKDConfig(lmbda=0.0, beta=0.0, **common),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )

    def work() -> None:
        trainer = {"dpo": preference, "kd": distillation}[method]()
        trainer.train()
        trainer.save_model()

    return work


def measured(chosen: argparse.Namespace) -> dict[str, float]:
    """Seconds and MiB of one side in this process."""
    import torch

    torch.set_num_threads(chosen.threads)
    if chosen.side == "quiver":
        work = quiver(chosen.method, chosen.folder, chosen.epochs)
    else:
        work = trl(chosen.method, chosen.folder, chosen.epochs, chosen.side == "trl-precomputed")
    clock = time.perf_counter if chosen.clock == "wall" else lambda: cpu_seconds() / chosen.threads
    began = clock()
    work()
    return {"seconds": clock() - began, "MiB": peak_mib()}


def main() -> None:
    """Print seconds and memory of each side, and TRL's seconds over Quiver's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=DEFAULT)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--count", type=int, default=256, help="rows that are learnt from")
    parser.add_argument("--method", choices=[*SIDES, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=["cpu", "wall"], default="cpu")
    parser.add_argument("--keep", type=Path, help="JSON file that the figures go into")
    for name, kind in (("--side", str), ("--folder", Path), ("--epochs", int)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.side:
        print(json.dumps(measured(chosen)))
        return
    if not chosen.rows.is_file():
        print(f"skipped: no rows at {chosen.rows} (--rows names a JSON file of instruction, chosen, rejected)")
        return
    if not has_trl():
        return
    for method in SIDES if chosen.method == "all" else (chosen.method,):
        against(method, chosen)


def against(method: str, chosen: argparse.Namespace) -> None:
    """All sides of one method in turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared(chosen.rows, folder, chosen.shape, chosen.count)
        given = {"method": method, "folder": folder, "clock": chosen.clock}
        for epochs in (1, 3):
            measure = functools.partial(apart, "trl_trainers", threads=chosen.threads, epochs=epochs, **given)
            taken = in_turns(chosen.rounds, SIDES[method], measure)
            case = f"{method}, {epochs} epoch{'s' if epochs > 1 else ''}, {chosen.count} rows"
            print(f"{case}:")
            for side, figures in taken.items():
                forms = (("seconds", ",.1f"), ("MiB", ",.0f"))
                seconds, sizes = (middle([one[name] for one in figures], form) for name, form in forms)
                apart_by = "" if side == "quiver" else f"   {side} / quiver {middle(ratios(taken, side))}"
                print(f"   {side} {seconds} s, {sizes} MiB{apart_by}", flush=True)
            keep(chosen.keep, "trl_trainers", case, taken)


if __name__ == "__main__":
    main()
