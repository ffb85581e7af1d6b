"""`python -m pipelines.commands.checking TASK ...`: every fault of a command that can be known before it runs, and what
it would do; nothing is run or written.

The graph is made as the command makes it, but what is refused is noted and stood in for, so that the rest is looked at
too (`pipelines.graph.faults`). Values of flags that cannot be read are left out for the rest.
"""

from __future__ import annotations

import functools
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import luigi

from pipelines.cli import invocation
from pipelines.cli.learning import Assigns
from pipelines.commands.command import Command
from pipelines.commands.explaining import command_of
from pipelines.commands.outlook import outlook, room, rows_there
from pipelines.graph.faults import Faults
from pipelines.graph.node import Node
from pipelines.graph.nodes import TrainedCheckpoint
from pipelines.runtime.command import next_command, planned, run
from pipelines.runtime.token_estimate import TokenEstimate
from schemas.display import human_bytes
from schemas.errors import QuiverError, counted, printable
from schemas.process import program, terminal

_JSON = "--json"
_MOST = 200
"""Stages that are printed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the command in `arguments`, as one object with `--json` among them; the exit code of the first fault."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = _JSON in words
    sys.argv[0] = "quiver"  # so that an error names the command as `quiver TASK ...`
    faults = Faults()
    listing: Any = run(["--module", "pipelines", *(word for word in words if word != _JSON)],
                     how=lambda given: _checked(given, faults))  # fmt: skip
    print(json.dumps(listing, indent=1) if as_json else "\n".join(_text(listing, faults.noted)))
    return faults.noted[0].code if faults.noted else 0


def _checked(arguments: list[str], faults: Faults) -> dict[str, Any]:
    """What there is to say of the command; flags whose values cannot be read are left out, round after round."""
    left_out: list[str] = []
    nothing: dict[str, Any] = {}

    def without(words: list[str]) -> list[str]:
        return invocation.dropped(words, left_out)

    while True:
        round_ = Faults()
        planning = functools.partial(planned, arguments, functools.partial(_listed, round_), without)
        listing = round_.attempt(planning, lambda: nothing)
        unread = [flag for error in round_.noted for flag in error.flags if flag not in left_out]
        for error in round_.noted:
            faults.note(error)
        if not unread:
            break
        left_out += unread
    for error in faults.noted:
        error.next = invocation.runnable(next_command(error))
    task = listing.get("task") or invocation.task()
    return {"task": task, **listing, "faults": [json.loads(error.as_json()) for error in faults.noted]}


def _listed(faults: Faults, task: luigi.Task) -> dict[str, Any]:
    command = command_of(task)
    if isinstance(command, Assigns):
        vars(command)["changes"] = faults.attempt(lambda: command.changes, dict)
    todo, reused = command.looked_at(faults)
    return _with_tokens(command, todo, reused)


def _with_tokens(command: Command, todo: Sequence[Node], reused: Sequence[Node]) -> dict[str, Any]:
    """The outlook, with the state and the tokens of every stage, and totals."""
    listing, tokens = outlook(command.task_family, todo, reused), TokenEstimate([*todo, *reused])
    trainings = [node for node in todo if isinstance(node, TrainedCheckpoint)]
    answers = [node for node in todo if tokens.drawn(node)]
    rows = {stage["place"]: stage["rows"] for stage in listing["stages"]}
    there = [
        {"stage": node.label, "operation": str(node.work.get("name", "")), "state": "done", "why": "",
         "rows": rows_there(node), "tokens": tokens.of(node), "bytes": _bytes(node), "place": node.url}
        for node in reused
    ]  # fmt: skip
    stages = [
        {**stage, "state": _state(stage["why"]), "tokens": tokens.of(node)}
        for stage, node in zip(listing["stages"], todo, strict=True)
    ]
    return {
        "task": listing["task"],
        "root": listing["root"],
        "stages": [*there, *stages],
        "answers": sum(rows[node.url] or 0 for node in answers),
        "answer_tokens": sum(tokens.drawn(node) for node in answers),
        "trainings": len(trainings),
        "trained_tokens": sum(tokens.of(node) or 0 for node in trainings),
        "bytes": listing["bytes"],
        "free": listing["free"],
    }


def _bytes(node: Node) -> int | None:
    manifest = node.manifest()
    return None if manifest is None else sum(file.bytes for file in (*manifest.files, *manifest.rejected))


def _state(why: str) -> str:
    """`first time`; `to do` where only what it is made of is another; else `changed`."""
    if why in ("first time", "gone from its place"):
        return "first time" if why == "first time" else "to do"
    return "to do" if all(part.startswith("another ") for part in why.split(", ")) else "changed"


def _text(listing: dict[str, Any], faults: Sequence[QuiverError]) -> Iterator[str]:
    stages = listing.get("stages", [])
    todo = [one for one in stages if one["state"] != "done"]
    yield terminal.wrapped(
        f"{listing['task']}: {counted(len(todo), 'stage')} to do, {len(stages) - len(todo):,} done where they begin, "
        f"{counted(len(faults), 'fault')}"
    )
    if stages:
        yield from ("", *_table(stages[:_MOST]))
        if stages[_MOST:]:
            yield f"  and {counted(len(stages) - _MOST, 'more stage')}: --json"
        yield from ("", *map(terminal.wrapped, _totals(listing)))
    for error in faults:
        yield from ("", terminal.error_text(error))
    if not faults:
        command = shlex.join(invocation.again())
        yield from ("", terminal.next_line(command))


def _totals(listing: dict[str, Any]) -> Iterator[str]:
    if listing["answers"]:
        yield f"about {counted(listing['answers'], 'answer')} of {listing['answer_tokens']:,} tokens together, at most"
    if listing["trained_tokens"]:
        yield f"about {listing['trained_tokens']:,} tokens in {counted(listing['trainings'], 'training')}"
    yield room(listing)


def _table(stages: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The stages below the folders of their labels, a line each."""
    names = [printable(one["stage"].rpartition("/")[2], 30) for one in stages]
    wide = max(24, *map(len, names))
    yield f"  {'stage':<{wide}}{'rows':>10}{'tokens':>11}{'disk':>10}  why"
    folder = None
    for name, one in zip(names, stages, strict=True):
        here = one["stage"].rpartition("/")[0]
        if here != folder:
            folder = here
            yield f"{printable(here, 70)}/"
        figures = [f"{value:,}" if value is not None else "" for value in (one["rows"], one["tokens"])]
        size = "" if one["bytes"] is None else human_bytes(one["bytes"])
        why = f"{one['state']}: {one['why']}" if one["state"] in ("changed", "to do") else one["state"]
        head = f"  {name:<{wide}}{figures[0]:>10}{figures[1]:>11}{size:>10}  "
        yield terminal.wrapped(f"{head}{why}", " " * 6)


if __name__ == "__main__":
    program.run(main)
