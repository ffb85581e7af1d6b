"""What to do after a run, as commands that work as they are printed: look, go on, ask what was trained, export it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator

from datakit.template import Rendering
from pipelines.cli import invocation
from pipelines.graph.model_check import is_adapters_alone
from pipelines.graph.node import Node
from pipelines.graph.resolve import near
from pipelines.stages.iteration import EvalSetup, IterationResult, TaskSetup
from schemas.installed import program
from schemas.process import terminal

_INDENT = "  "


def section(task_setup: TaskSetup, last: IterationResult, prompts: int, fewer: str) -> str:
    """Where the data lies and how to go on after iteration `last`; `prompts` are those of one iteration, `fewer` names
    the flags to lower where none are left for another.
    """
    policy = last.policy.url.removeprefix(last.policy.root)[1:]
    lines = [terminal.wrapped(f"\ndata lies in {near(last.policy.root)}: policy {policy}")]
    left = _left(task_setup, last, prompts)
    if left is not None and left < prompts:
        lines.append(
            terminal.wrapped(
                f"prompts left for iteration {last.number + 1}: {left} of the {prompts} that it takes; lower {fewer}, "
                "or give more prompts"
            )
        )
    return "\n".join([*lines, listed(suggestions(task_setup, last, prompts))])


def listed(commands: Iterable[str]) -> str:
    """The lines that name the folded `commands`; empty where there is none."""
    lines = [_INDENT + text for text in commands]
    return "\n".join(["go on with", *lines]) if lines else ""


def suggestions(task_setup: TaskSetup, last: IterationResult, prompts: int) -> Iterator[str]:
    """The answers with their rewards, the next iteration where prompts are left for it, and answers to the held-out
    prompts; nothing that reads a dataset which was removed since.
    """
    eval_setup = task_setup.eval_setup
    if last.rewards is not None and last.rewards.manifest():
        yield look_at(near(last.rewards.url))
    left = _left(task_setup, last, prompts)
    if left is None or left >= prompts:
        yield _folded(map(shlex.quote, invocation.again(iteration=last.number + 1)))
    yield from answers_of(last.policy, eval_setup)


def answers_of(policy: Node, eval_setup: EvalSetup) -> Iterator[str]:
    """The command that has `policy` answer the held-out prompts, where they are there."""
    if not eval_setup.held_out.manifest():
        return
    asked = ["--model", near(policy.url), "--prompts", near(eval_setup.held_out.url)]
    asked += [*written_as(eval_setup.rendering), "--max-new-tokens", str(eval_setup.max_new_tokens)]
    yield command("Generate", *asked)


def look_at(place: str) -> str:
    """The command that shows what lies at `place`."""
    return _folded(map(shlex.quote, [program("quiver"), "show", place]))


def command(*words: str) -> str:
    """The command of `words`, below the same root as the one that was given, folded."""
    return _folded(map(shlex.quote, invocation.command(*words)))


def written_as(rendering: Rendering) -> list[str]:
    """The flags of a command that writes conversations as `rendering` says and ends answers so."""
    flags = ["--template", rendering.template] if rendering.template else []
    flags += ["--template-options", json.dumps(dict(rendering.options))] if rendering.options else []
    flags += ["--date", rendering.date] if rendering.date else []
    return flags + (["--stop", json.dumps(list(rendering.stop))] if rendering.stop else [])


def exported(trained: Node) -> str:
    """The command that makes a folder for other programs of `trained`, or of LoRA adapters first a whole checkpoint."""
    return command("MergeModel" if is_adapters_alone(trained) else "ExportModel", "--model", near(trained.url))


def _left(task_setup: TaskSetup, last: IterationResult, prompts: int) -> int | None:
    """Prompts that no iteration up to `last` has taken; None where that is not known."""
    manifest = task_setup.prompts.manifest()
    return None if manifest is None else manifest.num_rows - prompts * last.number


def _folded(words: Iterable[str]) -> str:
    """The quoted `words` of a command that is printed behind `_INDENT`."""
    return terminal.folded(list(words), terminal.width() - len(_INDENT), _INDENT * 3)
