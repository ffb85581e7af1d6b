"""The SQL of the forensic views, over the views of plain names (`forensics` says how they are read).

A line is one of `KEYS`: the numbers of a scorer in a stage of an iteration or, of an online run, in a step. Conditions
on them take null for a value.
"""

from __future__ import annotations

from collections.abc import Mapping

from datakit.catalog.sql_text import name
from datakit.catalog.stacked import View
from schemas.rows.samples import CUT

KEYS = ("recipe", "experiment", "iteration", "step", "stage", "scorer")
LOOKED_AT, SHOWN = 1000, 20
"""Answers of a line whose words are counted, and rows of a line that are shown."""

_BINS, _TOP = 10, 0.1
"""Ranges of lengths, and the share of samples that are the best."""

_LINE = ", ".join(KEYS)
_OF_R = ", ".join(f"r.{key}" for key in KEYS)


def _same(one: str, other: str) -> str:
    return " AND ".join(f"{one}.{key} IS NOT DISTINCT FROM {other}.{key}" for key in KEYS)


def _of_one_sample(one: str, other: str) -> str:
    """Two recipes, and steps of an online run, may draw samples of one id: those that were drawn at one place."""
    places = f"coalesce({one}.drawn, {other}.drawn)", f"coalesce({other}.drawn, {one}.drawn)"
    return f"{one}.sample_id = {other}.sample_id AND {places[0]} IS NOT DISTINCT FROM {places[1]}"


_SAMPLES = f"main.samples AS s ON {_of_one_sample('r', 's')}"
_BY_LENGTH = f"""
    lengths AS (
        SELECT {_OF_R}, length(response) AS letters, count(*) AS n,
            avg(value) AS mean, var_pop(value) * count(*) AS within
        FROM main.rewards AS r JOIN {_SAMPLES} WHERE isfinite(value) AND response IS NOT NULL GROUP BY ALL
    )"""
"""Counts and moments of the answers of each length: all that is asked of lengths is a sum over these."""

_LENGTH = f"""
    WITH {_BY_LENGTH}, placed AS (
        SELECT *, sum(n * mean) OVER whole / sum(n) OVER whole AS reward,
            sum(n * letters) OVER whole / sum(n) OVER whole AS middle
        FROM lengths WINDOW whole AS (PARTITION BY {_LINE})
    ), sums AS (
        SELECT {_LINE}, sum(n)::BIGINT AS answers, count(*) AS groups, any_value(reward) AS reward,
            any_value(middle) AS letters, sum(within) AS within, sum(n * (mean - reward) ** 2) AS between_lengths,
            sum(n * (mean - reward) * (letters - middle)) AS joint, sum(n * (letters - middle) ** 2) AS of_letters
        FROM placed GROUP BY {_LINE}
    )
    SELECT {_LINE}, answers, reward, letters,
        joint / nullif(sqrt(of_letters * (within + between_lengths)), 0) AS correlation,
        1 - (within / nullif(answers - groups, 0)) / nullif((within + between_lengths) / nullif(answers - 1, 0), 0)
            AS explained
    FROM sums ORDER BY ALL"""

_EQUAL_LENGTH = f"""
    WITH {_BY_LENGTH}, every AS (
        SELECT stage, scorer, letters, sum(n) AS n FROM lengths GROUP BY ALL
    ), ranges AS (
        SELECT stage, scorer, letters,
            least(floor({_BINS} * (sum(n) OVER up - n / 2) / sum(n) OVER whole), {_BINS - 1})::INTEGER AS range
        FROM every
        WINDOW whole AS (PARTITION BY stage, scorer), up AS (whole ORDER BY letters)
    ), limits AS (
        SELECT *, min(letters) OVER one AS shortest, max(letters) OVER one AS longest FROM ranges
        WINDOW one AS (PARTITION BY stage, scorer, range)
    )
    SELECT {_LINE}, shortest, longest,
        sum(n)::BIGINT AS answers, sum(n * mean) / sum(n) AS reward
    FROM lengths JOIN limits USING (stage, scorer, letters)
    GROUP BY ALL ORDER BY ALL"""

_REPEATED_WINNERS = f"""
    WITH bounds AS (
        SELECT {_LINE}, -quantile_disc(-value, {_TOP}) AS bound FROM main.rewards WHERE isfinite(value) GROUP BY ALL
    ), best AS (
        SELECT {_OF_R}, r.value, s.prompt_id, s.response,
            lower(trim(regexp_replace(s.response, '\\s+', ' ', 'g'))) AS words
        FROM main.rewards AS r JOIN bounds AS b ON {_same("r", "b")} AND r.value >= b.bound
        JOIN {_SAMPLES} WHERE s.response IS NOT NULL
    ), alike AS (
        SELECT {_LINE}, words, min(response) AS response, count(*) AS answers, count(DISTINCT prompt_id) AS prompts,
            avg(value) AS reward FROM best GROUP BY {_LINE}, words
    )
    SELECT {_LINE}, response, answers, prompts, answers / sum(answers) OVER (PARTITION BY {_LINE}) AS share, reward
    FROM alike QUALIFY answers > 1 ORDER BY {_LINE}, answers DESC, response"""

_RANKED = f"""
    both_scored AS (
        SELECT r.recipe, r.experiment, r.iteration, r.step, r.stage, r.scorer, o.scorer AS other, r.dataset,
            o.dataset AS other_dataset, r.sample_id, r.prompt_id, r.value, o.value AS other_value,
            coalesce(r.drawn, o.drawn) AS drawn
        FROM main.rewards AS r JOIN main.rewards AS o ON {_of_one_sample("r", "o")}
            AND (r.scorer, r.dataset) > (o.scorer, o.dataset)
        WHERE isfinite(r.value) AND isfinite(o.value)
    ), ranked AS (
        SELECT *, count(*) OVER pair AS answers,
            rank() OVER (pair ORDER BY value) + (count(*) OVER (pair_ROWS, value) - 1) / 2 AS place,
            rank() OVER (pair ORDER BY other_value) + (count(*) OVER (pair_ROWS, other_value) - 1) / 2 AS other_place
        FROM both_scored WINDOW pair AS (pair_ROWS)
    )""".replace("pair_ROWS", f"PARTITION BY {_LINE}, other, dataset, other_dataset")
"""Pairs of numbers of one sample, each with its rank; equal numbers share their mean rank."""

_DISAGREEMENT = f"""
    WITH {_RANKED}
    SELECT {_LINE}, other, dataset, other_dataset, count(*) AS answers, corr(place, other_place) AS rank_correlation
    FROM ranked GROUP BY ALL ORDER BY ALL"""

_DISPUTED = f"""
    WITH {_RANKED}, widest AS (
        SELECT * EXCLUDE (answers, place, other_place), abs(place - other_place) / answers AS apart FROM ranked
        QUALIFY row_number() OVER (PARTITION BY {_LINE}, other, dataset, other_dataset
            ORDER BY abs(place - other_place) DESC, sample_id) <= {SHOWN}
    )
    SELECT {_OF_R}, other, r.dataset, other_dataset, r.sample_id, r.prompt_id,
        value, other_value, apart, any_value(s.response) AS response
    FROM widest AS r LEFT JOIN {_SAMPLES} GROUP BY ALL ORDER BY {_OF_R}, apart DESC"""

_DRIFT = f"""
    WITH lines AS (
        SELECT {_OF_R}, count(*) AS answers, avg(value) AS reward,
            avg(length(response)) AS letters, avg((finish_reason = '{CUT}')::INTEGER) AS cut,
            arg_min(response, r.sample_id, {LOOKED_AT}) AS texts
        FROM main.rewards AS r JOIN {_SAMPLES} GROUP BY ALL
    ), split AS (
        SELECT *, flatten(list_transform(texts, lambda one:
                regexp_extract_all(lower(one), '[\\p{{L}}\\p{{M}}\\p{{N}}]+'))) AS words,
            flatten(list_transform(texts, lambda one: list_zip(
                regexp_extract_all(lower(one), '[\\p{{L}}\\p{{M}}\\p{{N}}]+'),
                regexp_extract_all(lower(one), '[\\p{{L}}\\p{{M}}\\p{{N}}]+')[2:], true))) AS pairs
        FROM lines
    ), divergence AS (
        SELECT recipe, experiment, iteration, max(value) AS kl FROM main.reports WHERE metric = 'kl.mean' GROUP BY ALL
    )
    SELECT {", ".join(f"l.{key}" for key in KEYS)}, answers, reward, letters, cut,
        list_unique(texts) / nullif(len(texts), 0) AS different,
        list_unique(words) / nullif(len(words), 0) AS distinct_words,
        list_unique(pairs) / nullif(len(pairs), 0) AS distinct_pairs, kl
    FROM split AS l LEFT JOIN divergence AS d ON {
    " AND ".join(f"l.{key} IS NOT DISTINCT FROM d.{key}" for key in ("recipe", "experiment", "iteration"))
}
    ORDER BY ALL"""

_FLAT_PROMPTS = f"""
    SELECT {_LINE}, prompt_id, count(*) AS answers, any_value(value) AS reward FROM main.rewards
    WHERE prompt_id IS NOT NULL GROUP BY {_LINE}, prompt_id
    HAVING count(*) > 1 AND max(value) - min(value) < 1e-9 ORDER BY ALL"""

_MOMENT = "coalesce(iteration, 0) * 1000000 + coalesce(step, 0)"
"""When in a run something was asked; 0 is what stands before all iterations, of whichever recipe."""

_NEVER_IMPROVED = f"""
    WITH asked AS (
        SELECT recipe, experiment, stage, scorer, prompt_id, {_MOMENT} AS moment, avg(value) AS value FROM main.rewards
        WHERE prompt_id IS NOT NULL GROUP BY ALL
    ), runs AS (SELECT DISTINCT recipe, experiment, stage, scorer, prompt_id FROM asked WHERE moment > 0),
    every AS (
        SELECT * FROM asked WHERE moment > 0
        UNION ALL SELECT r.recipe, r.experiment, stage, scorer, prompt_id, 0, max(value)
        FROM runs AS r JOIN asked AS a USING (stage, scorer, prompt_id) WHERE moment = 0 GROUP BY ALL
    ), placed AS (SELECT *, row_number() OVER (run ORDER BY moment) AS number FROM every
        WINDOW run AS (PARTITION BY recipe, experiment, stage, scorer, prompt_id))
    SELECT recipe, experiment, stage, scorer, prompt_id, count(*) AS times,
        any_value(value) FILTER (number = 1) AS first, max(value) FILTER (number > 1) AS best_later
    FROM placed GROUP BY ALL HAVING best_later <= first ORDER BY ALL"""

_EXTREMES = f"""
    WITH ends AS (
        SELECT {_LINE}, dataset, drawn, unnest([
            {{'side': 'best', 'rows': max_by({{'sample_id': sample_id, 'value': value}}, value, {SHOWN})}},
            {{'side': 'worst', 'rows': min_by({{'sample_id': sample_id, 'value': value}}, value, {SHOWN})}}
        ]) AS one FROM main.rewards WHERE isfinite(value) GROUP BY {_LINE}, dataset, drawn
    ), r AS (SELECT {_LINE}, dataset, drawn, one.side AS side, unnest(one.rows, recursive := true) FROM ends)
    SELECT {_OF_R}, side, r.sample_id, any_value(s.prompt_id) AS prompt_id, value,
        any_value(s.response) AS response
    FROM r LEFT JOIN {_SAMPLES} GROUP BY ALL ORDER BY {_OF_R}, side, value DESC"""

_BORDERLINE = f"""
    SELECT recipe, experiment, iteration, step, stage, dataset, sample_id, reason, value, threshold,
        abs(try_cast(regexp_extract(threshold, '-?[0-9.]+(?:e[-+]?[0-9]+)?$') AS DOUBLE) - value) AS short_of
    FROM main.rejected
    QUALIFY short_of IS NOT NULL AND row_number() OVER (
        PARTITION BY dataset, recipe, experiment, iteration, step ORDER BY short_of, sample_id) <= {SHOWN}
    ORDER BY dataset, step, short_of, sample_id"""

_OVER_OPTIMISED = f"""
    WITH both_scored AS (
        SELECT r.recipe, r.experiment, r.iteration, r.step, r.stage, r.scorer, o.scorer AS gold_scorer,
            count(*) AS answers, avg(r.value) AS reward, avg(o.value) AS gold
        FROM main.rewards AS r JOIN main.rewards AS o ON {_of_one_sample("r", "o")}
        WHERE r.scorer <> o.scorer AND r.model IS NOT NULL AND o.model IS NULL
            AND isfinite(r.value) AND isfinite(o.value) GROUP BY ALL
    ), before AS (
        SELECT stage, scorer, gold_scorer, avg(reward) AS reward, avg(gold) AS gold FROM both_scored
        WHERE {_MOMENT} = 0 GROUP BY ALL
    ), moved AS (
        SELECT n.*, n.reward - coalesce(lag(n.reward) OVER run, b.reward) AS reward_change,
            n.gold - coalesce(lag(n.gold) OVER run, b.gold) AS gold_change
        FROM both_scored AS n LEFT JOIN before AS b USING (stage, scorer, gold_scorer) WHERE {_MOMENT} > 0
        WINDOW run AS (PARTITION BY recipe, experiment, stage, scorer, gold_scorer ORDER BY {_MOMENT})
    )
    SELECT {_LINE}, gold_scorer, answers, reward, gold, reward_change, gold_change,
        reward_change > 0 AND gold_change < 0 AS over_optimised
    FROM moved ORDER BY ALL"""


def _sources(views: Mapping[str, View]) -> str:
    """Trainings on pairs name these, and pairs their samples."""
    own = name("pair_id") if "pair_id" in views["training_rows"].columns else "NULL::VARCHAR"
    pairs = f"SELECT {own} FROM main.training_rows UNION ALL SELECT pair_id FROM main.records"
    learnt = ["SELECT sample_id FROM main.training_rows", "SELECT sample_id FROM main.records"]
    learnt += [f"SELECT {side}_sample_id FROM main.pairs WHERE pair_id IN ({pairs})" for side in ("chosen", "rejected")]
    return f"""
    WITH every AS (
        SELECT recipe, experiment, iteration, step, source, sample_id, 'samples' AS kind FROM main.samples
        UNION ALL SELECT recipe, experiment, iteration, NULL, source, sample_id, 'completions' FROM main.completions
    ), learnt AS ({" UNION ALL ".join(learnt)})
    SELECT recipe, experiment, iteration, step, kind, source, count(*) AS rows,
        count(*) FILTER (sample_id IN (SELECT sample_id FROM main.rejected WHERE sample_id IS NOT NULL)) AS set_aside,
        count(*) FILTER (sample_id IN (SELECT sample_id FROM learnt WHERE sample_id IS NOT NULL)) AS learnt
    FROM every GROUP BY ALL ORDER BY ALL"""


def statements(views: Mapping[str, View]) -> dict[str, str]:
    """Each by the name of its view; `views` are those of plain names, whose columns depend on the datasets there."""
    return {
        "length": _LENGTH,
        "equal_length": _EQUAL_LENGTH,
        "repeated_winners": _REPEATED_WINNERS,
        "disagreement": _DISAGREEMENT,
        "disputed": _DISPUTED,
        "drift": _DRIFT,
        "flat_prompts": _FLAT_PROMPTS,
        "never_improved": _NEVER_IMPROVED,
        "sources": _sources(views),
        "extremes": _EXTREMES,
        "borderline": _BORDERLINE,
        "over_optimised": _OVER_OPTIMISED,
    }
