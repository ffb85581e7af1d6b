"""Import and export of a random Llama folder of about 1 GB, beside transformers' own loading and saving of it.

`python -m tests.benchmarks.import_export [GIGABYTES]` prints seconds and peak memory over the size of the model, each
measured in a process of its own: import (without the logit check), export, and `from_pretrained` + `save_pretrained`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAYS = ("import", "export", "transformers")


def make(folder: Path, gigabytes: float) -> None:
    """A random bf16 Llama of about that size."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.trainers.networks import words

    hidden, width, vocabulary = 1024, 2816, 32000
    layers = max(1, round((gigabytes * 5e8 - 2 * vocabulary * hidden) / (4 * hidden**2 + 3 * hidden * width)))
    sizes = {"hidden_size": hidden, "intermediate_size": width, "num_hidden_layers": layers, "vocab_size": vocabulary}
    torch.manual_seed(0)
    network = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=16, dtype=torch.bfloat16))
    network.to(torch.bfloat16).save_pretrained(folder, max_shard_size="300MB")
    (folder / "tokenizer.json").write_text(words(1000).to_str())


def one(way: str, root: Path) -> None:
    """Run one way and print its seconds, its peak memory and the memory before it began, in bytes."""
    import torch

    torch.set_num_threads(1)
    if way == "transformers":
        import transformers

        before, began = peak(), clock()
        network = transformers.LlamaForCausalLM.from_pretrained(root / "source", dtype=torch.bfloat16)
        network.save_pretrained(root / "transformers")
    else:
        from trainers.engine.weights.export_hf import export
        from trainers.engine.weights.import_hf import import_hf

        before, began = peak(), clock()
        if way == "import":
            import_hf(str(root / "source"), str(root / "import"), check="off", say=lambda line: None)
        else:
            export(str(root / "import"), str(root / "export"), check="off", say=lambda line: None)
    print(json.dumps([*(b - a for a, b in zip(began, clock(), strict=True)), peak(), before]))


def clock() -> tuple[float, float]:
    """Seconds on the wall and of this process on its cores."""
    return time.perf_counter(), time.process_time()


def peak() -> int:
    """Greatest memory of this process so far, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main(gigabytes: float) -> None:
    """Measure every way and print one line for each."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        make(root / "source", gigabytes)
        size = sum(file.stat().st_size for file in (root / "source").glob("*.safetensors"))
        print(f"model: {size / 1e9:.2f} GB")
        seconds = {}
        for way in WAYS:
            command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.import_export", way, place]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            wall, seconds[way], most, before = json.loads(done.stdout.splitlines()[-1])
            summary = f"peak {most / size:.2f}x the model ({(most - before) / size:.2f}x above the idle process)"
            print(f"{way:12} {wall:6.1f} s, {seconds[way]:5.1f} s of a core   {summary}", flush=True)
        both = seconds["import"] + seconds["export"]
        print(f"import + export over transformers' load + save: {both / seconds['transformers']:.2f}x a core's time")


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in WAYS:
        one(sys.argv[1], Path(sys.argv[2]))
    else:
        main(float(sys.argv[1]) if sys.argv[1:] else 1.0)
