"""Environments that tests talk to."""

from __future__ import annotations

from typing import Any


def longer(conversations: list[list[dict[str, str]]]) -> list[Any]:
    """Repeats the first word of an answer until there are three answers, each of which earns its letters."""
    turns: list[Any] = []
    for talk in conversations:
        answers = [turn["content"] for turn in talk if turn["role"] == "assistant"]
        word = (answers[-1].split() or ["w1"])[0]
        earned = float(len(answers[-1]))
        turns.append(earned if len(answers) == 3 else {"content": word, "reward": earned})
    return turns


def raising(conversations: list[list[dict[str, str]]]) -> list[Any]:
    """Fails at its first conversation."""
    raise ValueError(f"no move against {conversations[0][-1]['role']}")
