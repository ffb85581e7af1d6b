"""`quiver why`: what became of a row, which rows fed a checkpoint, what must be made again where rows are withdrawn."""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from datakit.catalog.ask import workspace_process
from datakit.catalog.last_run import last_run
from datakit.catalog.named import matching, newest
from datakit.catalog.rollouts import steps_gone
from datakit.catalog.trained_on import ONLINE
from datakit.catalog.workspace import Entry, read_workspace
from datakit.trace.fed import Fed
from datakit.trace.row_trace import Event, Tracer
from datakit.trace.withdrawn import Reached, reached
from quiver import grid
from quiver.command import Command
from quiver.workspace_root import in_root, root_of
from schemas.errors import counted, printable
from schemas.installed import as_run
from schemas.process import terminal
from schemas.run_layout import ROLLOUTS, run_folder_of
from schemas.store.storage import shown

_QUIET = ("template.", "tokenize.", "blend.shuffle")
"""Operations that every row passes as it is."""
_RULES = ("filter.", "blend.", "sql.")
"""Operations whose settings are the rule by which rows stay."""
_CELL, _STEPS, _ROWS = 60, 6, 3
_SMALL = ("source", "epoch", "tools")
"""Columns that say nothing of a row that stands elsewhere."""


def why(command: Command, arguments: Sequence[str]) -> Iterable[str]:
    """What became of a row, or which rows fed a checkpoint; with `--withdrawn` what the rows reach."""
    words, options = command.parsed(arguments)
    if not words or (len(words) > 1 and "withdrawn" not in options):
        raise command.wrong(" ".join(arguments) or "no row", f"{command.call} --help")
    root = root_of(options)
    workspace = read_workspace(root)
    with workspace_process(root) as process:
        tracer = Tracer(workspace, process)
        named = _checkpoint(tracer, words[0])
        if named is not None and "withdrawn" not in options:
            fed, gone = Fed(tracer, process, named), steps_gone(workspace).get(named.place, frozenset())
            yield from _fed_json(fed, gone) if "json" in options else _fed(fed, options, gone)
            return
        rows = [tracer.identified(word, options.get("key", "")) for word in words]
        last = last_run(tracer.lineage)
        if "withdrawn" in options:
            matches = [*reached(tracer, set(rows))]
            yield from _reached_json(matches, last) if "json" in options else _reached(matches, tracer.unread)
            return
        trace = tracer.trace(rows[0])
    chosen = [one for one in trace.events if "all" in options or one.entry.place in last] or trace.events
    all_gone = steps_gone(workspace)
    if "json" in options:
        events = [_plain(one, last, all_gone) for one in trace.events]
        answer = {"key": trace.row[0], "id": trace.row[1], "events": events, "unread": trace.unread}
        yield json.dumps(grid.plain(answer), indent=1)
        return
    yield from _events(trace.row, chosen, all_gone)
    others = {one.entry.place for one in trace.events} - {one.entry.place for one in chosen}
    if others:
        yield ""
        yield terminal.wrapped(f"also in {counted(len(others), 'result')} of other variants: --all")
    yield from _unread(trace.unread)


def _checkpoint(tracer: Tracer, word: str) -> Entry | None:
    """The checkpoint of that name, of its variants that of the last run, or else the last."""
    name, there = matching(tracer.lineage.entries, word)
    same = [one for one in there if one.made.kind == "checkpoint" and name in (one.name, one.place)]
    return newest(same, last_run(tracer.lineage)) if same else None


def _events(row: tuple[str, str], events: Sequence[Event], gone: Mapping[str, Collection[int]]) -> Iterator[str]:
    """A line for each fact, below the folder of the result; rows of one result to which the same befell are one."""
    yield terminal.wrapped(f"{printable(row[0])} {printable(row[1], 200)}")
    folders: dict[str, dict[Any, list[Event]]] = defaultdict(lambda: defaultdict(list))
    for event in events:
        alike = event.entry.place, event.kind, event.row[0], event.values.get("reason")
        folders[_folder(event.entry)][alike].append(event)
    for folder, groups in folders.items():
        listed = [several for several in groups.values() if not _passes(several[0])]
        if not listed:
            continue
        yield from ("", printable(folder, terminal.width()))
        cells = [(printable(several[0].entry.name.removeprefix(f"{folder}/"), _CELL), _summary(several, row, gone))
                 for several in listed]  # fmt: skip
        yield from terminal.table(cells, "  ")
    passed = sum(map(_passes, events))
    if passed:
        yield ""
        yield terminal.wrapped(
            f"{counted(passed, 'stage')} passed it on as it is, as text and tokens: --json names them"
        )


def _folder(entry: Entry) -> str:
    """The folder of the iteration that the result is of."""
    parts = entry.name.split("/")
    return "/".join(part for part in parts[:-1] if not part.startswith("step=")) or "."


def _passes(event: Event) -> bool:
    return event.kind == "kept" and event.entry.made.op.startswith(_QUIET)


def _summary(events: Sequence[Event], row: tuple[str, str], gone: Mapping[str, Collection[int]]) -> str:
    """What befell the rows of `events`, in words."""
    first, count = events[0], len(events)
    op, values = printable(first.entry.made.op, _CELL), _measured(events)
    if first.row == row and count == 1:
        who = ""
    elif count <= _ROWS:
        who = ", ".join(f"{printable(one.row[0])} {printable(one.row[1], _CELL)}" for one in events) + ": "
    else:
        who = f"{count:,} rows by their {printable(first.row[0])}: "
    copies = f", {first.count} times" if count == 1 and first.count > 1 else ""
    if first.kind == "created":
        columns = [one for one in first.made_of if first.made_of[one] == row[1]] if first.row != row else []
        of = " and ".join("of it" if one == row[0] else f"of it as {printable(one)}" for one in columns)
        return f"{who}made by {op}{copies}{f' {of}' if of else ''}{values}"
    if first.kind == "kept":
        verb = "" if op.startswith("label.") else "kept by "
        return f"{who}{verb}{op}{copies}{values}"
    if first.kind == "dropped":
        return f"{who}DROPPED by {op}: {_reason(events)}"
    if first.kind == "left out":
        return f"{who}left out by {op}{_part(first.entry)}: it holds other rows"
    return f"{who}{_learnt(events, gone.get(first.entry.place, ()))}"


def _measured(events: Sequence[Event]) -> str:
    """The values of one row, or between which those of several lie."""
    if len(events) == 1:
        texts = [f"{printable(name)} {_value(value)}" for name, value in events[0].values.items() if name not in _SMALL]
        return f"; {', '.join(texts)}" if texts else ""
    numbers: dict[str, list[float]] = defaultdict(list)
    for event in events:
        for name, value in event.values.items():
            if isinstance(value, float) and name not in _SMALL:
                numbers[name].append(value)
    texts = [f"{printable(name)} {min(several):.6g} .. {max(several):.6g}" for name, several in numbers.items()]
    return f"; {', '.join(texts)}" if texts else ""


def _value(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else printable("-" if value is None else value, _CELL)


def _reason(events: Sequence[Event]) -> str:
    values = events[0].values
    text = printable(values.get("reason"), _CELL)
    against = f" against {printable(values.get('threshold'), _CELL)}" if values.get("threshold") is not None else ""
    if len(events) == 1:
        value = "" if values.get("value") is None else f", {_value(values['value'])}"
        return f"{text}{value}{against}"
    measured = [one.values["value"] for one in events if one.values.get("value") is not None]
    span = f", {min(measured):.6g} .. {max(measured):.6g}" if measured else ""
    return f"{text}{span}{against if len({one.values.get('threshold') for one in events}) == 1 else ''}"


def _part(entry: Entry) -> str:
    part = entry.made.params.get("part")
    return f" (part {printable(part, _CELL)})" if entry.made.op == "blend.split" and isinstance(part, str) else ""


def _learnt(events: Sequence[Event], gone: Collection[int]) -> str:
    """What a training made of rows; `gone` are steps of an online run whose rows were dropped."""
    first = events[0]
    place = shown(first.entry.place)
    if first.kind == "trained":
        drawn = f"; drawn in {run_folder_of(place)}/{ROLLOUTS}" if first.entry.made.op == ONLINE else ""
        if lost := _drawn_and_gone(events, gone):
            drawn += f", where {_spans(lost)} {'is' if len(lost) == 1 else 'are'} gone (keep_rollouts)"
        return f"TRAINED in {_steps([one for event in events for one in event.steps])}{drawn}"
    return {
        "not reached": "in its data, but none of its steps reached it",
        "no records": "in its data; its steps have no records",
        "asked": f"a prompt of this online run: its answers lie in {run_folder_of(place)}/{ROLLOUTS}",
        "validated": "judged by it: a row of its validation data",
    }[first.kind]


def _drawn_and_gone(events: Iterable[Event], gone: Collection[int]) -> list[int]:
    """Those of the steps that drew what `events` were learnt in whose rows are `gone`; an optimizer step is a part of
    one.
    """
    learnt = {(_updates(event.entry), one.get("step")) for event in events for one in event.steps}
    drawn = {(step - 1) // updates + 1 for updates, step in learnt if isinstance(step, int)}
    return sorted(drawn & {*gone})


def _updates(entry: Entry) -> int:
    """Optimizer steps of each step of an online run."""
    step = entry.made.params.get("step")
    updates = step.get("updates") if isinstance(step, Mapping) else None
    return updates if isinstance(updates, int) and updates > 0 else 1


def _spans(steps: Sequence[int]) -> str:
    """`steps 1 to 4 and 7`, of sorted numbers."""
    spans: list[list[int]] = []
    for one in steps:
        if spans and one == spans[-1][1] + 1:
            spans[-1][1] = one
        else:
            spans.append([one, one])
    texts = [str(first) if first == last else f"{first} to {last}" for first, last in spans]
    several = f"{', '.join(texts[:-1])} and {texts[-1]}" if len(texts) > 1 else texts[0]
    return f"step{'s' * (len(steps) > 1)} {several}"


def _steps(steps: Sequence[Mapping[str, Any]]) -> str:
    """Steps, with the loss of each and what it counted of the row."""
    steps = sorted(steps, key=lambda one: (one.get("step") or 0, one.get("epoch") or 0))
    listed = [*steps[: _STEPS - 1], steps[-1]] if len(steps) > _STEPS else steps
    gap = "" if len(listed) == len(steps) else f" (of {len(steps):,})"
    numbers = ", ".join(str(one.get("step")) for one in listed)
    losses = ", ".join(_value(one.get("loss")) for one in listed)
    weights = {one.get("weight") for one in steps}
    weight = f"weight {_value(next(iter(weights)))}" if len(weights) == 1 else f"{len(weights)} weights"
    return f"step{'s' * (len(steps) > 1)} {numbers}{gap}: loss {losses}; {weight}"


def _fed(fed: Fed, options: Mapping[str, str], gone: Collection[int]) -> Iterator[str]:
    """How many rows fed a checkpoint, what they came through, how many steps learnt them."""
    entry, totals = fed.checkpoint, fed.totals()
    own = printable(fed.key)
    yield terminal.wrapped(f"checkpoint {shown(entry.place)} ({printable(entry.made.op)})")
    yield ""
    data = shown(fed.data.entry.place)
    role = "asked the prompts of" if fed.online else "was trained on"
    yield terminal.wrapped(f"It {role} {data}: {counted(totals['rows'], 'row')}, {totals['ids']:,} by {own}.")
    if "records" in totals:
        times, steps = counted(totals["records"], "time"), counted(totals["steps"], "step")
        yield terminal.wrapped(
            f"{counted(totals['learnt'], 'answer')} that it drew were learnt {times} in {steps}."
            if fed.online
            else f"Rows were learnt {times} in {steps}, {totals['learnt']:,} of the rows."
        )
    elif not fed.online:
        yield "No records tell in which steps they were learnt."
    if gone:
        yield terminal.wrapped(
            f"What it asked, drew and learnt in {_spans(sorted(gone))} is gone (keep_rollouts); FROM rollouts tells "
            "what it was."
        )
    yield from ("", "What they came through")
    cells = []
    for one in fed.passed():
        op = printable(one.entry.made.op)
        settings = ", ".join(_settings(one.entry.made.params)) if op.startswith(_RULES) else ""
        cells.append(
            (printable(one.entry.name, _CELL), f"{one.rows:>7,}", f"{op}{f' ({settings})' if settings else ''}")
        )
    yield from terminal.table(cells, "  ")
    yield ""
    every = as_run(in_root(f"quiver why {shlex.quote(entry.place)} --json", options))
    yield from terminal.wrapped(f"every row: {every}").split("\n")


def _settings(params: Mapping[str, Any]) -> Iterator[str]:
    for name, value in params.items():
        if value is not None and value is not False and value not in ("", [], {}):
            yield f"{printable(name)} {printable(json.dumps(value) if isinstance(value, list | dict) else value, 40)}"


def _fed_json(fed: Fed, gone: Collection[int]) -> Iterator[str]:
    """The same, and every row, each in a line."""
    passed = fed.passed()
    head = {
        "checkpoint": fed.checkpoint.place,
        "data": fed.data.entry.place,
        "key": fed.key,
        "online": fed.online,
        **({"steps_gone": sorted(gone)} if fed.online else {}),
        **fed.totals(),
        "passed": [
            {"place": one.entry.place, "rows": one.rows, "op": one.entry.made.op, "settings": one.entry.made.params}
            for one in passed
        ],
    }
    yield json.dumps(grid.plain(head))[:-1] + ', "ids_with_steps": ['
    before = ""
    for row in fed.rows(passed):
        yield before + json.dumps(grid.plain(row))
        before = ","
    yield "]}"


def _reached(matches: Sequence[Reached], unread: Mapping[str, str]) -> Iterator[str]:
    """What must be trained again, and what may be another one without the rows."""
    again = [one for one in matches if one.again]
    yield terminal.wrapped(
        f"{counted(len(again), 'checkpoint')} must be trained again for the rows to be gone from there"
        if again
        else "no checkpoint has to be trained again: none learnt from the rows"
    )
    titles = {"learnt": "learnt from them", "stands on": "stand on such a checkpoint",
              "made of": "are made of what held them: a quantile, a vocabulary or a choice may be another one",
              "holds": "hold them, or rows made of them"}  # fmt: skip
    for reach, title in titles.items():
        listed = [one for one in matches if one.reach == reach]
        for kind in ("checkpoint", "dataset"):
            some = [one for one in listed if one.entry.made.kind == kind]
            if some:
                yield from ("", terminal.wrapped(f"{kind}s that {title}"))
                yield from (f"  {printable(one.entry.place, 200)}" for one in some)
    yield from _unread(unread)


def _reached_json(matches: Sequence[Reached], last: frozenset[str]) -> Iterator[str]:
    yield from grid.json_lines(
        {
            "place": one.entry.place,
            "kind": one.entry.made.kind,
            "reach": one.reach,
            "rows": one.rows,
            "again": one.again,
            "last_run": one.entry.place in last,
        }
        for one in matches
    )


def _plain(event: Event, last: frozenset[str], gone: Mapping[str, Collection[int]]) -> dict[str, Any]:
    entry = event.entry
    lost = _drawn_and_gone([event], gone.get(entry.place, ()))
    return {
        "place": entry.place,
        "kind": event.kind,
        "op": entry.made.op,
        "settings": entry.made.params if event.kind in ("dropped", "left out") else {},
        "iteration": entry.iteration,
        "step": entry.step,
        "last_run": entry.place in last,
        "key": event.row[0],
        "id": event.row[1],
        "count": event.count,
        "made_of": event.made_of,
        "values": event.values,
        "steps": [*event.steps],
        **({"steps_gone": lost} if entry.made.op == ONLINE else {}),
    }


def _unread(unread: Mapping[str, str]) -> Iterator[str]:
    if unread:
        yield ""
    for place, damage in unread.items():
        yield terminal.wrapped(f"not looked at: {printable(place, 200)}: {printable(damage, 200)}")
