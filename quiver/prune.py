"""`quiver prune`: what nothing in a workspace refers to; listed, and with `--yes` removed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from datakit.catalog.disk import freed
from datakit.catalog.kept import OF_LAST_RUN, STANDS_ON
from datakit.catalog.prune import PruneDecision, busy, prune_decisions, remove
from datakit.catalog.workspace import read_workspace
from quiver import grid, plain_places
from quiver.command import Command
from quiver.workspace_root import in_root, root_of
from schemas.display import human_bytes
from schemas.errors import ConflictError, counted, printable
from schemas.process import terminal
from schemas.store.in_use import used_alone

_STANDS = "results that stay stand on it"
_MOST = 40
"""Pieces of each list that are printed."""


def prune(command: Command, arguments: Sequence[str]) -> Iterable[str]:
    """What would go and what stays for which reason; with `--yes` what went."""
    words, options = command.parsed(arguments)
    command.at_most(0, words)
    root = root_of(options)
    workspace = read_workspace(root)
    runs = "runs" in options
    if "yes" not in options:
        return _answer(prune_decisions(workspace, runs=runs), options, {})
    with used_alone(workspace.root):
        workspace = read_workspace(root)
        listed = prune_decisions(workspace, runs=runs)
        if place := busy(listed):
            raise ConflictError(
                "busy",
                f"a run is at work at {printable(place, 200)}",
                where=printable(place, 200),
                kept="everything; nothing was removed",
                next="wait for its end, then run the same command again",
            )
        stayed = {one.piece.place: remove(workspace.root, one) for one in listed if one.goes}
    return _answer(listed, options, stayed)


def _answer(listed: Sequence[PruneDecision], options: Mapping[str, str], stayed: dict[str, str]) -> Iterable[str]:
    if "json" in options:
        return grid.json_lines(_facts(one, stayed) for one in listed)
    return _text(listed, stayed, options)


def _facts(decision: PruneDecision, stayed: dict[str, str]) -> dict[str, object]:
    fault = stayed.get(decision.piece.place, "")
    return {
        "place": decision.piece.place,
        "kind": decision.piece.kind,
        "bytes": decision.piece.bytes,
        "goes": decision.goes and not fault,
        "reason": fault or decision.reason,
    }


def _text(listed: Sequence[PruneDecision], stayed: dict[str, str], options: Mapping[str, str]) -> Iterator[str]:
    """What goes, largest first; what stays, by reason; how much that frees."""
    removed = "yes" in options
    gone = [one for one in listed if one.goes and not stayed.get(one.piece.place)]
    rows = [
        (human_bytes(one.piece.bytes), f"{printable(one.piece.place, 200)} ({one.piece.kind}): {one.reason}")
        for one in sorted(gone, key=lambda one: -one.piece.bytes)
    ]
    if rows:
        yield "removed" if removed else "would go"
        yield from terminal.table(rows[:_MOST], "  ")
        yield from (f"  and {counted(len(rows) - _MOST, 'more piece')}: --json",) if rows[_MOST:] else ()
        yield ""
    yield from _staying(listed, stayed)
    size = human_bytes(freed(one.piece for one in gone))
    if not gone:
        yield "nothing goes: something that stays refers to all there is"
    elif removed:
        yield f"{size} freed"
    else:
        following = in_root(f"quiver prune{' --runs' if 'runs' in options else ''} --yes", options)
        yield from (f"{size} would be freed; nothing was removed", "", plain_places.to_do(following))


def _staying(listed: Sequence[PruneDecision], stayed: dict[str, str]) -> Iterator[str]:
    """What stays for another reason than that a last run made it."""
    reasons: dict[str, list[PruneDecision]] = defaultdict(list)
    for one in listed:
        reason = stayed.get(one.piece.place) or ("" if one.goes else one.reason)
        if reason and reason != OF_LAST_RUN:
            reasons[_STANDS if reason.endswith(STANDS_ON) else reason].append(one)
    if reasons:
        yield "stays, beside the last runs"
        lines = []
        for reason, several in reasons.items():
            others = f" and {len(several) - 1:,} more" if several[1:] else ""
            size = human_bytes(sum(one.piece.bytes for one in several))
            lines.append((size, f"{printable(several[0].piece.place, 200)}{others}: {printable(reason, 200)}"))
        yield from terminal.table(lines[:_MOST], "  ")
        yield ""
