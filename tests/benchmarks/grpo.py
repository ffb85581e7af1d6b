"""GRPO against TRL's GRPOTrainer: the same network, prompts, reward, answers per step and optimizer; and what a step of
Quiver costs besides the model.

    python -m tests.benchmarks.grpo [--shape tiny|small] [--prompts 8] [--samples 8] [--length 128] [--steps 6]

Of `ragged` answers one in 64 tokens ends one (a vocabulary of 64, weights drawn at random), of `full` ones next to none
does before the longest length. Both sides draw with the weights as they stand and learn all answers in one step.
Steps per second are those behind the first two, by CPU seconds of the process divided by threads (`--clock wall` for
the clock on the wall, which other programs slow down). `overhead` is the share of a step of Quiver that is neither
decoding nor a forward or backward pass: operations, Parquet, manifests, checksums. TRL is read from `build/trl`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks._sides import SHAPES, apart, has_trl, llama

CASES = {"ragged": 64, "full": 4096}
"""Ids of the vocabulary, one of which ends an answer."""
WARM, RATE = 2, 1e-4
TOKENS_OF_PROMPT = 8


def score(response: list[str]) -> list[float]:
    """How many different words an answer has, for each of its words."""
    return [len({*text.split()}) / max(1, len(text.split())) for text in response]


def prepared(folder: Path, shape: str, vocabulary: int, prompts: int, longest: int) -> None:
    """A network with a tokenizer of words, and prompts in its words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<pad>": 0, "<eos>": 1, **{f"w{number}": number for number in range(2, vocabulary)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<pad>", "<eos>"])
    torch.manual_seed(0)
    llama(shape, vocabulary, longest, pad_token_id=0, eos_token_id=1).save_pretrained(folder / "model")
    tokenizer.save(str(folder / "model" / "tokenizer.json"))
    settings = {"eos_token": "<eos>", "pad_token": "<pad>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "model" / "tokenizer_config.json").write_text(json.dumps(settings))
    ids = torch.randint(2, vocabulary, (prompts, TOKENS_OF_PROMPT)).tolist()
    (folder / "prompts.json").write_text(json.dumps([[" ".join(f"w{one}" for one in row), row] for row in ids]))


def quiver(chosen: argparse.Namespace, tick: Callable[[], None]) -> Callable[[], float]:
    """An online run; what it returns are the seconds that models took."""
    import pyarrow as pa

    from datakit.clients import Sampling
    from datakit.generate import Complete
    from datakit.label import GroupAdvantage, Reward
    from datakit.tokenize import Drawn
    from pipelines.online.__main__ import execute
    from pipelines.online.config import OnlineRun, StepConfig, settings_of
    from schemas import PROMPTS, Column
    from schemas.dataset import Dataset
    from schemas.rows.conversation import IDS
    from schemas.settings import parse
    from trainers.config import Run
    from trainers.engine.inference.generator import Generator
    from trainers.engine.training.trainer import Trainer
    from trainers.engine.weights.import_hf import import_hf

    mine = chosen.folder / f"quiver-{os.getpid()}"
    import_hf(str(chosen.folder / "model"), str(mine / "model"), check="off", say=lambda line: None)
    kind = PROMPTS.adding(Column("prompt", pa.string(), "text"), Column("prompt_ids", IDS, "its tokens"))
    texts = json.loads((chosen.folder / "prompts.json").read_text())
    rows = [
        {"prompt_id": f"p{at}", "messages": [{"role": "user", "content": text}], "prompt": text, "prompt_ids": ids}
        for at, (text, ids) in enumerate(texts)
    ]
    prompts = Dataset.from_arrow(pa.Table.from_pylist(rows, schema=kind.arrow), kind, str(mine / "prompts"))
    learning = {"algorithm": "policy_gradient", "max_steps": chosen.steps, "optim": {"lr": RATE, "weight_decay": 0.0}}
    places = {"data": prompts.url, "init": str(mine / "model"), "out": str(mine / "out")}
    run = parse(Run, {**learning, **places, "global_batch_size": chosen.prompts * chosen.samples, "track": []})
    complete = Complete(sampling=Sampling(samples_per_prompt=chosen.samples, max_new_tokens=chosen.length))
    step = StepConfig(
        prompts=chosen.prompts,
        answers=settings_of((complete, Reward())),
        rows=settings_of((Drawn(), GroupAdvantage())),
    )
    online = OnlineRun(run=run, step=step, models={"scorer": "tests.benchmarks.grpo:score"})
    of_models: list[float] = []
    for owner, name in ((Generator, "generate"), (Trainer, "_step")):
        _timed(owner, name, of_models, (lambda: None) if name == "generate" else tick, chosen.clock)

    def work() -> float:
        execute(online)
        return sum(of_models[2 * WARM :])

    return work


def _timed(owner: Any, name: str, seconds: list[float], then: Callable[[], None], clock: str) -> None:
    """Let every call of a method of `owner` leave its seconds."""
    called, now = getattr(owner, name), _clock(clock)

    def timed(*given: Any, **named: Any) -> Any:
        began = now()
        made = called(*given, **named)
        seconds.append(now() - began)
        then()
        return made

    setattr(owner, name, timed)


def _clock(name: str) -> Callable[[], float]:
    return time.perf_counter if name == "wall" else time.process_time


def trl(chosen: argparse.Namespace, tick: Callable[[], None]) -> Callable[[], float]:
    """TRL's trainer, one optimizer step for all answers of a step."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    class Ticks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
            tick()

    texts = [text for text, _ in json.loads((chosen.folder / "prompts.json").read_text())]
    config = GRPOConfig(
        output_dir=str(chosen.folder / "trl"),
        per_device_train_batch_size=chosen.prompts * chosen.samples,
        num_generations=chosen.samples,
        max_completion_length=chosen.length,
        max_steps=chosen.steps,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        beta=0.0,
        temperature=1.0,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=1000,
        dataloader_pin_memory=False,
    )
    model = AutoModelForCausalLM.from_pretrained(chosen.folder / "model", dtype=torch.float32)
    model.config.use_cache = True
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **named: score(completions),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": texts}),
        processing_class=AutoTokenizer.from_pretrained(chosen.folder / "model"),
        callbacks=[Ticks()],
    )

    def work() -> float:
        trainer.train()
        return 0.0

    return work


def measured(chosen: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step of one side in this process, and the share of it that is not the model's."""
    import torch

    torch.set_num_threads(chosen.threads)
    ticks, now = list[float](), _clock(chosen.clock)
    sys.modules.setdefault("tests.benchmarks.grpo", sys.modules["__main__"])
    work = (quiver if chosen.side == "quiver" else trl)(chosen, lambda: ticks.append(now()))
    of_models = work()
    steps = len(ticks) - WARM
    seconds = ticks[-1] - ticks[WARM - 1]
    divided = chosen.threads if chosen.clock == "cpu" else 1
    made = {"step": seconds / steps / divided}
    return {**made, "overhead": 1.0 - of_models / seconds} if of_models else made


def main() -> None:
    """Print steps per second of both sides, their ratio, and the overhead of a step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    for name, number in (("prompts", 8), ("samples", 8), ("length", 128), ("steps", 6), ("rounds", 1), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--clock", choices=["cpu", "wall"], default="cpu")
    for name, kind in (("--side", str), ("--folder", Path)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.side:
        print(json.dumps(measured(chosen)))
        return
    sides = ("quiver", "trl") if has_trl() else ("quiver",)
    names = ("shape", "prompts", "samples", "length", "steps", "clock")
    for case, vocabulary in CASES.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            prepared(folder, chosen.shape, vocabulary, chosen.prompts, TOKENS_OF_PROMPT + chosen.length)
            given = {"folder": folder, **{one: getattr(chosen, one) for one in names}}
            taken = {side: list[dict[str, float]]() for side in sides}
            for _round in range(chosen.rounds):
                for side in sides:
                    taken[side].append(apart("grpo", side, chosen.threads, **given))
        seconds = {side: statistics.median(one["step"] for one in runs) for side, runs in taken.items()}
        overhead = statistics.median(one["overhead"] for one in taken["quiver"])
        print(f"{case}, {chosen.shape}, {chosen.prompts} x {chosen.samples} answers of {chosen.length} tokens at most")
        print("   " + "   ".join(f"{side} {1 / one:.3f} steps/s" for side, one in seconds.items()))
        print(f"   overhead of a step of quiver {overhead:.1%}, {overhead * seconds['quiver']:.3f} s")
        if "trl" in seconds:
            print(f"   trl / quiver {seconds['trl'] / seconds['quiver']:.2f}")


if __name__ == "__main__":
    main()
