"""Dialogues that show a model how answers are criticised and revised: turns that stand before every question.

    {"samples": [[{"role": "User", "content": "..."}, {"role": "Assistant", "content": "..."}, ...], ...]}

NeMo-Aligner's file, as it is: a question, an answer, a critique request, a critique, a revision request, a revision.
"""

from __future__ import annotations

from typing import Any

from datakit.named_file import NamedFiles

_FILES = NamedFiles(
    "file of dialogues", "bad-constitution", '{"samples": [[{"role": "User", "content": "..."}, ...], ...]} as JSON'
)
_ROLES = ("user", "assistant")


def read_few_shot(name: str) -> tuple[dict[str, str], ...]:
    """The turns of all dialogues in the file `name`, one dialogue behind the other; `ConfigError` for anything else."""
    samples = _FILES.json_of(name).get("samples")
    if not isinstance(samples, list) or not samples or not all(isinstance(one, list) and one for one in samples):
        raise _FILES.unreadable(name, "samples is no list of dialogues")
    made = []
    for number, dialogue in enumerate(samples, 1):
        turns = [_turn(one) for one in dialogue]
        if None in turns or [turn["role"] for turn in turns if turn] != [_ROLES[at % 2] for at in range(len(turns))]:
            raise _FILES.unreadable(name, f"the turns of dialogue {number} are not User and Assistant by turns")
        if len(turns) % 2:
            raise _FILES.unreadable(name, f"dialogue {number} does not end with an answer")
        made += [turn for turn in turns if turn]
    return tuple(made)


def _turn(given: Any) -> dict[str, str] | None:
    if not isinstance(given, dict) or {*given} != {"role", "content"}:
        return None
    role, content = given["role"], given["content"]
    if not isinstance(role, str) or not isinstance(content, str):
        return None
    return {"role": role.lower(), "content": content}
