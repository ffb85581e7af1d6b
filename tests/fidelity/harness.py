"""Run lm-evaluation-harness: `python harness.py LIBRARY FOLDER` writes FOLDER/harness.json.

FOLDER holds the rows (`truthful.jsonl`, `gsm8k.jsonl`) and the model. The tasks are the library's own, with these files
as their data; nothing is fetched.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TASKS = {
    "mc1": ("truthfulqa/truthfulqa_mc1", "validation", "truthful"),
    "mc2": ("truthfulqa/truthfulqa_mc2", "validation", "truthful"),
    "gsm8k": ("gsm8k/gsm8k", "test", "gsm8k"),
}
TOKENS = 128
"""Of an answer, at most."""


def main(library: str, folder: Path) -> None:
    """Evaluate the model and write what every row came to."""
    sys.path.insert(0, library)
    import lm_eval
    from lm_eval.tasks import TaskManager

    tasks = folder / "tasks"
    tasks.mkdir()
    for name, (task, split, rows) in TASKS.items():
        settings: dict[str, Any] = {
            "include": str(Path(lm_eval.__file__).parent / "tasks" / f"{task}.yaml"),
            "task": f"own_{name}",
            **dict.fromkeys(("tag", "dataset_name", "training_split", "fewshot_split")),
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {split: str(folder / f"{rows}.jsonl")}},
            "num_fewshot": 0,
        }
        (tasks / f"{name}.yaml").write_text(json.dumps(settings))
    made = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(folder / "model"), "dtype": "float32"},
        tasks=[f"own_{name}" for name in TASKS],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        num_fewshot=0,
        batch_size=4,
        device="cpu",
        gen_kwargs={"max_gen_toks": TOKENS},
        bootstrap_iters=0,
        log_samples=True,
    )
    samples = {name.removeprefix("own_"): rows for name, rows in made["samples"].items()}
    (folder / "harness.json").write_text(json.dumps(samples, default=str))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
