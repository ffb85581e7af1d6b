"""Signs that a reward is learnt in place of the task, iteration by iteration, each with how it is read.

Of samples: what length explains of their rewards, prompts that teach nothing, best answers that say the same. Of
answers to held-out prompts: wrong ones that are rated above right ones, a reward that rises while right answers fall,
prompts that no policy ever got right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from datakit.catalog.workspace import Entry
from pipelines.report.html.blocks import Grid, Section
from pipelines.report.html.reported import ReportedRun, columns_of

_SAMPLED = {"prompt_id", "response", "reward"}
_JUDGED = {"prompt_id", "correct", "reward"}
_BEST = 10
"""One of so many samples is among the best."""

_OF_SAMPLES = {
    "correlation of reward and length": "far from 0: length pays, whatever is said",
    "spread of rewards that length explains": "less what chance gives so many lengths; near 100%: among answers of one "
    "length there is little to choose",
    "prompts whose answers are worth the same": "they teach nothing where answers are held against each other",
    "best answers that repeat another prompt's": "of the best tenth, each once for its prompt, letter case and blanks "
    "aside: many say that one trick wins",
}
_OF_JUDGED = {
    "wrong answers rated above right ones": "of all pairs of the two; 50% is chance: the reward knows nothing of it",
    "reward up, right answers down": "since the evaluation before: what is learnt is the reward and not the task",
}

Values = Mapping[str, str]
"""What each sign shows, as text."""


def signs(run: ReportedRun) -> Section | None:
    """The tables; None for a run whose answers nothing rewards."""
    judged = [rows for rows, _ in run.evaluations]
    sampled = [
        one
        for one in run.datasets
        if one.made.op == "label.reward" and {*columns_of(one)} >= _SAMPLED and one not in judged and one.rows
    ]
    verified = [one for one in judged if {*columns_of(one)} >= _JUDGED and one.rows]
    blocks = []
    if sampled:
        blocks.append(_grid("Of samples", sampled, [_of_samples(run, one) for one in sampled], _OF_SAMPLES))
    if verified:
        blocks.append(_grid("Of held-out answers", verified, [*_of_judged(run, verified)], _OF_JUDGED))
        never = _never_right(run, verified)
        blocks[-1] = Grid(caption=blocks[-1].caption, columns=blocks[-1].columns, rows=blocks[-1].rows, notes=(never,))
    lead = "What to look at before a figure is believed. A sign is no proof: look at the answers behind it."
    return Section(title="Signs", lead=lead, blocks=tuple(blocks)) if blocks else None


def _grid(caption: str, entries: Sequence[Entry], values: Sequence[Values], read: Mapping[str, str]) -> Grid:
    names = [str(one.iteration) if one.iteration is not None else "first" for one in entries]
    rows = tuple((sign, *(one.get(sign, "-") for one in values), text) for sign, text in read.items())
    return Grid(caption=caption, columns=("sign", *names, "how it is read"), rows=rows)


def _of_samples(run: ReportedRun, entry: Entry) -> Values:
    [shown] = run.ask(
        f"""
        WITH every AS (
            SELECT prompt_id, reward, length(response) AS letters,
                lower(trim(regexp_replace(response, '\\s+', ' ', 'g'))) AS words FROM {run.rows_of(entry)}
        ), within AS (SELECT sum(spread) AS spread, count(*) AS lengths
            FROM (SELECT var_pop(reward) * count(*) AS spread FROM every GROUP BY letters)),
        prompts AS (SELECT max(reward) - min(reward) AS spread FROM every GROUP BY prompt_id HAVING count(*) > 1),
        best AS (SELECT prompt_id, words FROM every
            QUALIFY ntile({_BEST}) OVER (ORDER BY reward DESC, md5(prompt_id || words), words) = 1)
        SELECT (SELECT corr(reward, letters) FROM every) AS correlation,
            (SELECT 1 - any_value(within.spread) / nullif(count(*) - any_value(lengths), 0)
                / nullif(var_samp(reward), 0) FROM every, within) AS explained,
            (SELECT avg((spread < 1e-9)::INTEGER) FROM prompts) AS flat,
            (SELECT 1 - count(DISTINCT words) / count(DISTINCT (prompt_id, words)) FROM best) AS repeated
        """
    )
    shares = [_share(shown[name]) for name in ("explained", "flat", "repeated")]
    correlation = shown["correlation"]
    first = "-" if correlation is None or not math.isfinite(correlation) else f"{correlation:+.2f}"
    return dict(zip(_OF_SAMPLES, (first, *shares), strict=True))


def _of_judged(run: ReportedRun, entries: Sequence[Entry]) -> Iterator[Values]:
    """By the ranks of right answers among all (Mann and Whitney 1947), equal rewards sharing their mean rank."""
    before: tuple[float, float] | None = None
    for entry in entries:
        [shown] = run.ask(
            f"""
            WITH ranked AS (
                SELECT correct, reward,
                    rank() OVER (ORDER BY reward) + (count(*) OVER (PARTITION BY reward) - 1) / 2 AS place
                FROM {run.rows_of(entry)} WHERE correct IN (0, 1) AND isfinite(reward)
            ), counted AS (SELECT sum(correct) AS good, count(*) - sum(correct) AS bad FROM ranked)
            SELECT avg(reward) AS reward, avg(correct) AS correct,
                1 - (sum(place * correct) - any_value(good) * (any_value(good) + 1) / 2)
                    / nullif(any_value(good) * any_value(bad), 0) AS above
            FROM ranked, counted
            """
        )
        now = shown["reward"], shown["correct"]
        rose = before is not None and None not in (*before, *now) and now[0] > before[0] and now[1] < before[1]
        values = (_share(shown["above"]), "-" if before is None else "yes" if rose else "no")
        yield dict(zip(_OF_JUDGED, values, strict=True))
        before = now


def _never_right(run: ReportedRun, entries: Sequence[Entry]) -> str:
    every = " UNION ALL ".join(f"SELECT prompt_id, correct FROM {run.rows_of(one)}" for one in entries)
    [shown] = run.ask(
        f"SELECT count(*) AS prompts, count(*) FILTER (best < 1) AS never "
        f"FROM (SELECT max(correct) AS best FROM ({every}) GROUP BY prompt_id)"
    )
    return (
        f"{shown['never']:,} of {shown['prompts']:,} held-out prompts were answered right by no policy: too hard, "
        "or judged wrongly"
    )


def _share(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.1%}"
