"""Replies, checked: a generator's has every prompt and sample once, each whole or marked as missing; a scorer's has
one number a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datakit.clients.protocols import ANSWERS, Generator, Scorer, no_client
from datakit.clients.sampling import Sampling
from datakit.op import Context
from schemas import TOKEN_COLUMNS
from schemas.errors import ConfigError, DataError, QuiverError, ServiceError, printable
from schemas.rows.samples import BESIDE


def answers_of(generator: Generator, rows: pa.Table, sampling: Sampling, seeds: npt.NDArray[np.uint64]) -> pa.Table:
    """What the generator answers to `rows`; where it raises, each prompt is asked alone; those at fault become errors.

    A fault that meets every prompt is not the prompts' and is raised.
    """
    try:
        return generator.generate(rows, sampling, seeds)
    except (QuiverError, MemoryError):
        raise
    except Exception:
        parts, failures = [], 0
        if rows.num_rows == 1:
            raise
        for row in range(rows.num_rows):
            try:
                part = generator.generate(rows.slice(row, 1), sampling, seeds[row : row + 1])
            except (QuiverError, MemoryError):
                raise
            except Exception as fault:
                failures += 1
                part = missing(
                    [(0, index) for index in range(sampling.samples_per_prompt)],
                    f"{type(fault).__name__}: {fault}",
                )
            part = ANSWERS.conform(part, "answers")
            parts.append(part.set_column(0, "prompt_row", pa.array([row] * part.num_rows, pa.int32())))
        if failures == rows.num_rows:
            raise
        return pa.concat_tables(parts)


def checked(answers: pa.Table, prompts: int, samples: int, given: Sequence[str] = TOKEN_COLUMNS) -> pa.Table:
    """Every (prompt, sample) exactly once, in order, whole (with what is `given` of its tokens) or with an `error`;
    `ServiceError` for anything else.
    """
    try:
        schema = ANSWERS.adding(*(column for column in BESIDE if column.name in answers.column_names))
        answers = schema.conform(answers, "the generator's reply")
        whole = [replace(ANSWERS[name], nullable=False) for name in TOKEN_COLUMNS if name in given]
        good = answers.filter(pc.is_null(answers["error"])).drop_columns(["error"])
        schema.dropping("error").adding(*whole).check(good, "the reply")
    except DataError as fault:
        raise _bad(fault.what) from fault
    places = list(zip(answers["prompt_row"].to_pylist(), answers["sample_index"].to_pylist(), strict=True))
    asked = [(row, index) for row in range(prompts) for index in range(samples)]
    strange = set(places) - set(asked)
    if strange or len(set(places)) != len(places):
        raise _bad(f"asked {len(asked)} answers, got {len(places)}, {len(strange)} of them not asked for or twice")
    none = missing(sorted(set(asked) - set(places)), "missing in the reply")
    answers = pa.concat_tables([answers, none], promote_options="default")
    answers = answers.sort_by([("prompt_row", "ascending"), ("sample_index", "ascending")]).combine_chunks()
    lengths = pc.not_equal(pc.list_value_length(answers["response_ids"]), pc.list_value_length(answers["logprobs"]))
    if pc.any(lengths).as_py():
        raise _bad("response_ids and logprobs differ in length")
    return _without_infinite(answers)


def _without_infinite(answers: pa.Table) -> pa.Table:
    """Answers with a log-probability that is null or not finite become errors."""
    logprobs = answers["logprobs"].combine_chunks()
    fine = pc.fill_null(pc.is_finite(pc.list_flatten(logprobs)), False)
    rows = pc.unique(pc.list_parent_indices(logprobs).filter(pc.invert(fine)))
    bad = pc.is_in(pa.array(np.arange(answers.num_rows)), value_set=rows.cast(pa.int64()))
    at = answers.schema.get_field_index("error")
    return answers.set_column(at, "error", pc.if_else(bad, "log-probability not finite", answers["error"]))


def missing(places: list[tuple[int, int]], error: str) -> pa.Table:
    """Answers that are not there: (prompt, sample) and why."""
    columns = {
        "prompt_row": pa.array([row for row, _ in places], pa.int32()),
        "sample_index": pa.array([index for _, index in places], pa.int32()),
        "error": pa.array([error] * len(places), pa.string()),
    }
    arrays = [columns.get(c.name, pa.nulls(len(places), c.type)) for c in ANSWERS.columns]
    return pa.Table.from_arrays(arrays, schema=ANSWERS.arrow)


def check_outputs(op: str, asked: Sequence[str], given: Sequence[str]) -> None:
    """`ConfigError` where `op` asks for numbers that a scorer, which gives those (empty: unknown), does not have."""
    unknown = [name for name in asked if name not in given] if given else []
    if unknown:
        raise ConfigError(
            "unknown-output",
            f"{op}: the scorer gives no {', '.join(map(printable, unknown))}",
            expected=", ".join(given),
            found=", ".join(map(printable, asked)),
            kept="nothing was started",
            next="ask for numbers that it gives",
        )


def scores(ctx: Context, rows: pa.Table, names: tuple[str, ...], role: str = "scorer") -> list[pa.Array]:
    """What the scorer, the resource `role`, says of `rows` under each of `names`, as float64; `ServiceError` where it
    does not answer with one number a row.
    """
    scorer = ctx.resources[role]
    if not isinstance(scorer, Scorer):
        raise no_client(scorer, Scorer)
    reply = scorer.score(scorer.takes.conform(rows, "what the scorer reads"))
    return [_numbers(reply, name, rows.num_rows) for name in names]


def scale_of(ctx: Context, names: tuple[str, ...], role: str = "scorer") -> list[tuple[float, float]]:
    """Mean and standard deviation of each of `names` as the scorer, the resource `role`, carries them; `ConfigError`
    where it does not.
    """
    known: Mapping[str, tuple[float, float]] = getattr(ctx.resources[role], "scale", {})
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(
            "no-reward-scale",
            f"the scorer carries no mean and standard deviation of {', '.join(map(printable, unknown))}",
            expected="the checkpoint model.measured of RewardModel, whose held-out answers had different rewards",
            found=", ".join(known) or "none",
            kept="nothing was scored",
            next='score without standardize, then Label --op standardize --params \'{"mean": 0.1, "std": 1.5}\'',
        )
    return [known[name] for name in names]


def _numbers(reply: Mapping[str, pa.Array], name: str, rows: int) -> pa.Array:
    values = reply.get(name)
    if values is None:
        raise _bad_score(f"there is no {name}", name, ", ".join(reply) or "nothing")
    if len(values) != rows:
        raise _bad_score(f"asked {rows} scores, got {len(values)}", str(rows), str(len(values)))
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        raise _bad_score(f"{name} is no number", "numbers", str(values.type))
    return values.cast(pa.float64())


def _bad_score(what: str, expected: str, actual: str) -> ServiceError:
    return ServiceError(
        "bad-reply",
        f"the scorer's reply cannot be used: {what}",
        expected=expected,
        found=actual,
        kept="finished chunks; no score was made up",
        next="mend the scorer, then run the same command again",
    )


def _bad(what: str) -> ServiceError:
    return ServiceError(
        "bad-reply",
        f"the generator's reply cannot be used: {what}",
        expected="one answer per prompt and sample index",
        kept="finished chunks; no answer was made up",
        next="mend the generator, then run the same command again",
    )
