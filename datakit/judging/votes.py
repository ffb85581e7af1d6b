"""Votes: what a row is asked how often and in which orders, and the verdict that comes of the replies.

    answers two    a vote is both orders (`swap`): a win is one that both give, anything else is a tie
    answers many   a vote is an order by lot and its reverse: ranks are means over all of them
    answer one     a vote is one reply: a score is the mean over all that could be read

A vote of which a part could not be read is none. The order of two answers is by lot too, so that without `swap` neither
stands first more often than the other.

    R rows    V votes    A asks of a row: its votes times the orders of each
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from datakit.judging.reading import NO_VERDICT, Read
from datakit.judging.rubric import TIE, Rubric


@dataclass(frozen=True)
class Ask:
    """One question about a row: which vote it is part of, and the answers in the order in which they are shown."""

    vote: int
    order: tuple[int, ...]


def asks(lots: Sequence[Sequence[int]], swap: bool) -> list[Ask]:
    """The questions about a row whose answers stand in the orders `lots`, one a vote; with `swap` reversed too."""
    made = []
    for vote, lot in enumerate(lots):
        order = tuple(lot)
        made += [Ask(vote, order)] + ([Ask(vote, order[::-1])] if swap and len(order) > 1 else [])
    return made


def counts(replies: Sequence[Read]) -> dict[str, int]:
    """How many of a row's replies were no verdict, by why."""
    return {status: sum(one.status == status for one in replies) for status in NO_VERDICT}


def scores(rubric: Rubric, replies: Sequence[Read]) -> dict[str, float | None]:
    """The mean of every score over the replies that could be read; by the attribute's name, or an empty one."""
    read = [one.verdict for one in replies if one.status == "verdict"]
    names = rubric.attributes or ("",)
    return {name: fmean(one[at] for one in read) if read else None for at, name in enumerate(names)}


def preference(names: Sequence[str], asked: Sequence[Ask], replies: Sequence[Read]) -> dict[str, Any]:
    """Of two answers: which is preferred by most votes (`tie` where as many say the one as the other), the first one's
    wins over all votes (a tie is half a win), the share of votes whose orders agree, and the share of replies that
    prefer what they saw first.
    """
    won, agree = [], []
    for votes in _votes(asked, replies):
        winners = [ask.order[one.verdict[0]] if one.verdict else None for ask, one in votes]
        same = len(set(winners)) == 1
        won.append({0: 1.0, 1: 0.0, None: 0.5}[winners[0] if same else None])
        agree += [float(same)] if len(winners) > 1 else []
    wins = fmean(won) if won else None
    side = None if wins is None else TIE if wins == 0.5 else names[0 if wins > 0.5 else 1]
    return {"preferred": side, "wins": wins, "consistent": _mean(agree), "first": _first(replies)}


def ranking(names: Sequence[str], asked: Sequence[Ask], replies: Sequence[Read]) -> dict[str, Any]:
    """Of several answers: the one of the best mean rank (`tie` of several such), all mean ranks (1 is best), the share
    of votes whose orders agree, and the share of replies that put first what they saw first.
    """
    ranks, agree = [], []
    for votes in _votes(asked, replies):
        orders = [tuple(ask.order[at] for at in one.verdict) for ask, one in votes]
        ranks += [[order.index(at) + 1 for at in range(len(names))] for order in orders]
        agree += [float(len(set(orders)) == 1)] if len(orders) > 1 else []
    means = [fmean(column) for column in zip(*ranks, strict=True)] if ranks else None
    best = [] if means is None else [at for at, mean in enumerate(means) if mean == min(means)]
    side = None if means is None else names[best[0]] if len(best) == 1 else TIE
    return {"preferred": side, "ranks": means, "consistent": _mean(agree), "first": _first(replies)}


def _votes(asked: Sequence[Ask], replies: Sequence[Read]) -> list[list[tuple[Ask, Read]]]:
    """The votes of which every part could be read."""
    votes: Mapping[int, list[tuple[Ask, Read]]] = {ask.vote: [] for ask in asked}
    for ask, reply in zip(asked, replies, strict=True):
        votes[ask.vote].append((ask, reply))
    return [vote for vote in votes.values() if all(reply.status == "verdict" for _, reply in vote)]


def _first(replies: Sequence[Read]) -> float | None:
    """Which share of the verdicts that prefer one answer prefer what stood first."""
    return _mean([float(one.verdict[0] == 0) for one in replies if one.status == "verdict" and one.verdict])


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
