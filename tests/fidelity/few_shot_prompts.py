"""Prompts with examples, as lm-evaluation-harness builds them: `python few_shot_prompts.py LIBRARY FOLDER` writes
FOLDER/prompts.json.

FOLDER holds `<suite>.jsonl` and, for examples, `<suite>-dev.jsonl`. The tasks are the library's own, over these files;
the first three rows stand before each question, as plain text.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TASKS = {"gsm8k": "gsm8k/gsm8k.yaml", "mcqa": "mmlu/default/_default_template_yaml"}
SHOTS = 3


def main(library: str, folder: Path) -> None:
    """Build the prompt of every row."""
    sys.path.insert(0, library)
    import lm_eval
    from lm_eval.tasks import TaskManager

    tasks = folder / "tasks"
    tasks.mkdir()
    for suite, path in TASKS.items():
        files = {"test": str(folder / f"{suite}.jsonl"), "dev": str(folder / f"{suite}-dev.jsonl")}
        settings: dict[str, Any] = {
            "include": str(Path(lm_eval.__file__).parent / "tasks" / path),
            "task": f"own_{suite}",
            **dict.fromkeys(("tag", "dataset_name", "training_split", "validation_split")),
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": files},
            "test_split": "test",
            "fewshot_split": "dev",
            "fewshot_config": {"sampler": "first_n", "split": "dev"},
            "num_fewshot": SHOTS,
        }
        (tasks / f"{suite}.yaml").write_text(json.dumps(settings))
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    made = {}
    for suite in TASKS:
        loaded: Any = manager.load(f"own_{suite}") if hasattr(manager, "load") else None
        task = (loaded["tasks"] if loaded else manager.load_task_or_group(f"own_{suite}"))[f"own_{suite}"]
        made[suite] = [task.fewshot_context(doc, num_fewshot=SHOTS) for doc in task.test_docs()]
    (folder / "prompts.json").write_text(json.dumps(made))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
