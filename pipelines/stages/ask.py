"""A stage that asks a model, behind the stages that make what the model reads: the same for every command and recipe.

What has to be made is declared by the operation and the backend together (`Backend.steps`): templated and tokenized for
a network that reads ids, nothing for a function that reads answers as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from datakit.op import Op
from datakit.template import Rendering
from pipelines.graph.backend import Role, Step, backend_of, roles_of
from pipelines.graph.node import Node, rows_of
from pipelines.graph.nodes import Table
from pipelines.graph.plan import Plan
from pipelines.graph.steps import after_steps
from pipelines.graph.tokenizer_check import differ
from schemas.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How conversations become what a model reads: `rendering`, and what that leaves open as the model learnt to read;
    the `tokenizer` where it is there before the model is (None: the model's own); rows of more than `max_length` tokens
    go.
    """

    rendering: Rendering = field(default_factory=Rendering)
    tokenizer: Node | None = None
    max_length: int | None = None


PLAIN = Reading()


def ask(plan: Plan, label: str, op: Op, rows: Node, model: Node, *, reading: Reading = PLAIN, seed: int = 0) -> Table:
    """`rows` with what `model` answers for `op`; what the model reads is made first."""
    return asked(plan, label, op, readable(plan, label, op, rows, model, reading), model, seed=seed)


def asked(plan: Plan, label: str, op: Op, rows: Node, model: Node, *, seed: int = 0) -> Table:
    """`rows` with what `model` answers for `op`, where the rows hold what it reads already."""
    resources: dict[str, Any] = {role_of(op): model}
    return plan.table(label, op, rows, seed=seed, **resources)


def readable(plan: Plan, label: str, op: Op, rows: Node, model: Node, reading: Reading = PLAIN) -> Node:
    """`rows` with the columns that `model` reads for `op`, made under labels that begin with `label`."""
    tokenizer = reading.tokenizer
    if tokenizer is None or differ(model.tokenizer_id, tokenizer.tokenizer_id, (model, tokenizer)):
        tokenizer = model
    return after_steps(plan, label, steps(op, rows, model, reading), rows, tokenizer)


def steps(op: Op, rows: Node, model: Node, reading: Reading = PLAIN) -> tuple[Step, ...]:
    """The stages before `model` can be asked about `rows`."""
    backend, rendering = backend_of(model), reading.rendering.for_model(model.trained_template)
    return tuple(backend.steps(op, role_of(op), rows_of(rows), rendering, reading.max_length))


def is_readable(op: Op, rows: Node, model: Node) -> bool:
    """Whether `rows` hold already what `model` reads for `op`."""
    schema = rows_of(rows)
    needed = (*op.takes.names, *backend_of(model).takes(model, role_of(op), schema).names)
    return all(name in schema for name in needed)


def role_of(op: Op) -> Role:
    """What `op` asks a model to be; `ConfigError` for one that asks none."""
    roles = roles_of(op)
    if len(roles) != 1:
        raise ConfigError(
            "unknown-resource", f"{op.name} asks no model", kept="nothing was started", next="leave it out"
        )
    return roles[0]
