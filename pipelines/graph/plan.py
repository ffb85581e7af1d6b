"""The graph: nodes made below one root, each checked as it is made, none made twice; nothing runs here.

    plan = Plan("quiver-data")
    rows = plan.table("demo/rows", Jsonl(files=("rows.jsonl",), format="rewarded").pinned())
    kept = plan.table("demo/kept", Where(predicate="reward > 0"), rows)
    kept.url            quiver-data/demo/kept-3f2a91c0

Every edge is checked when the node is made: an operation's `takes` against the schema that comes in, the resources it
needs, the tokenizer of the rows against the tokenizer of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar, cast

from datakit.op import NOTHING, Op
from datakit.run.resource import check_needs
from pipelines.graph import from_file, made_by, other_rows
from pipelines.graph.backend import backend_of, check_model, outputs_of, roles_of
from pipelines.graph.faults import Faults, RefusedTable, StandIn
from pipelines.graph.limits import check_settings, check_template
from pipelines.graph.model_check import check_answers, place_of
from pipelines.graph.named_results import place_of_name
from pipelines.graph.node import Node, rows_of
from pipelines.graph.nodes import Existing, Table, TrainedCheckpoint
from pipelines.graph.remade import tokenizer_at
from pipelines.graph.resolve import data_flags
from pipelines.graph.tokenizer_check import check_tokenizer
from schemas import Schema
from schemas.canonical import canonical
from schemas.errors import ConfigError, DataError, QuiverError, check_all, printable
from schemas.shards import ROWS_PER_SHARD
from schemas.store.commit import read_manifest
from schemas.store.opening import only_match
from schemas.store.storage import normal
from schemas.tokenizer_lineage import token_columns
from trainers.algorithm import Algorithm
from trainers.config import Training, training_of
from trainers.registry import algorithms, configured

T = TypeVar("T")
N = TypeVar("N", bound=Node)

_PLAIN: Mapping[str, Any] = {"epochs": 1, "global_batch_size": 1, "optim": {"lr": 1e-5}}
_LONGEST = 150
"""Characters of a part of a label: file systems take 255 bytes, and a key and the names of attempts follow it."""


class Plan:
    """Makes nodes below one root, checks each as it is made, and never makes the same one twice."""

    def __init__(self, root: str, faults: Faults | None = None) -> None:
        """`faults` notes what is refused, and the rest is made all the same; without it the first fault is raised."""
        self.root, self.faults = normal(root), faults
        self.nodes: dict[tuple[str, str, str], Node] = {}

    def attempt(self, make: Callable[[], T], otherwise: Callable[[], T]) -> T:
        """What `make` gives; where it is refused and faults are noted, what stands in for it."""
        return make() if self.faults is None else self.faults.attempt(make, otherwise)

    def table(
        self,
        label: str,
        op: Op,
        *inputs: Node,
        seed: int = 0,
        rows_per_shard: int = ROWS_PER_SHARD,
        **resources: Node | None,
    ) -> Table:
        """The dataset that `op` makes of `inputs`; raises at once for what could only fail later."""
        used = {name: given for name, given in resources.items() if given is not None}
        given: dict[str, Any] = {"label": label, "root": self.root, "inputs": inputs, "resources": used, "seed": seed}
        given["rows_per_shard"] = rows_per_shard

        def made() -> Table:
            named = op.with_outputs({name: outputs_of(name, one) for name, one in used.items()})
            return Table(op=named, **given)

        return self._checked(made, _check_table, lambda: RefusedTable(op=op, **given))

    def training(
        self,
        algorithm: str,
        settings: Mapping[str, Any],
        *,
        seed: int,
        where: str,
        model: Any = None,
    ) -> Training:
        """`training_of` these settings; where they are refused and faults are noted, plain ones stand in for them."""
        asked = partial(training_of, algorithm, seed=seed, model=model, where=where)
        return self.attempt(lambda: asked(settings), lambda: asked(_PLAIN))

    def model(
        self,
        label: str,
        training: Training,
        *,
        data: Node,
        tokenizer: Node,
        init: Node | None = None,
        validation: Node | None = None,
        ranks: int = 0,
    ) -> TrainedCheckpoint:
        """The checkpoint that `training` makes of `data`."""
        node = TrainedCheckpoint(
            label=label,
            root=self.root,
            training=training,
            data=data,
            tokenizer=tokenizer,
            init=init,
            validation=validation,
            ranks=ranks,
        )
        return self._checked(lambda: node, _check_model, lambda: node)

    def existing(self, place: str, kind: str) -> Node:
        """The dataset or checkpoint at `place`, or that is called so; `ConfigError` if there is none of this kind."""
        stand_in = StandIn(label=place, root=self.root, stands_for=kind, rows=NOTHING if kind == "dataset" else None)
        return self.attempt(lambda: self._existing(place, kind), lambda: stand_in)

    def _existing(self, place: str, kind: str) -> Node:
        place = only_match(place)
        url = normal(place_of_name(self.root, place, "dataset", "checkpoint") or place)
        manifest = read_manifest(url)
        if manifest is None or manifest.kind != kind:
            raise ConfigError(
                "not-found" if manifest is None else "wrong-kind",
                f"{printable(place, 200)} is not a {kind}",
                expected=f"a folder with the manifest of a {kind}",
                found="no manifest" if manifest is None else f"a {manifest.kind}",
                kept="nothing was started",
            )
        return self._once(Existing(label=url.rsplit("/", 1)[-1], root=self.root, place=url, existing_manifest=manifest))

    def add(self, node: Node, check: Callable[[Any], object] = lambda node: None) -> Node:
        """A node that stands for something outside, or one of a kind of its own that `check` holds."""
        made: Node = self._checked(lambda: node, check, lambda: node)
        return made

    def _checked(self, make: Callable[[], N], check: Callable[[Any], object], otherwise: Callable[[], N]) -> N:
        """The node of `make` that has passed the `check`, once; `otherwise` where it is refused and that is noted."""
        try:
            node = make()
            check(node)
            return self._once(node)
        except QuiverError as error:
            if self.faults is None:
                raise
            refused = otherwise()
            self.faults.note_of(error, refused)
            known: Any = self.nodes.setdefault((refused.label, "", ""), refused)
            return cast(N, known)

    def _once(self, node: Any) -> Any:
        _check_place(node)
        return self.nodes.setdefault((node.label, node.task_key, canonical(node.placement_settings)), node)


def _check_place(node: Node) -> None:
    """What is made lies below the root. A checkpoint needs a folder on a file system; datasets may lie elsewhere."""
    parts = node.label.split("/")
    if node.made and any(part in ("", ".", "..") or printable(part, _LONGEST) != part for part in parts):
        raise ConfigError(
            "bad-parameter",
            f"{printable(node.label, 200)} names no folder below the root of data",
            expected=f"parts divided by /, none empty, . or .., of at most {_LONGEST} visible characters",
            found=printable(node.label, 200),
            kept="nothing was started",
            next="--name demo/rows",
        )
    if node.made and node.kind != "dataset" and "://" in node.root:
        raise ConfigError(
            "remote-checkpoint",
            f"{node.label} is a {node.kind} and cannot be made below {printable(node.root, 200)}",
            expected="a [quiver] root that is a folder; below a remote one only datasets are made, inputs may be there",
            found=printable(node.root, 200),
            where=node.label,
            kept="nothing was started",
            next="--quiver-root ./quiver-data",
        )


def _check_table(node: Table) -> None:
    try:
        check_needs(node.op, node.resources)
    except ConfigError as error:
        error.where = node.label
        flags = ("tokenizer" if name == "tokenizer" else "model" for name in error.missing)
        error.next = " ".join(f"--{flag} CHECKPOINT" for flag in flags)
        raise
    roles = {role: node.resources[role] for role in roles_of(node.op)}
    for role, model in roles.items():
        check_model(node.label, node.op, role, model)
    speaks = next((node.resources[name] for name in ("tokenizer", *roles) if name in node.resources), None)
    known = partial(_known_of_model, speaks)
    for rows in node.inputs:
        _require(rows, node.op.takes, f"{node.label} ({node.op.name})", known, node.op)
        reads: dict[str, Schema] = {}
        for role, model in roles.items():
            reads[role] = backend_of(model).takes(model, role, rows_of(rows))
            _require(rows, reads[role], f"the {role} of {node.label} ({node.op.name})", known)
        for name, given in node.resources.items():
            columns = [*token_columns(node.op.takes), *token_columns(reads.get(name))]
            check_tokenizer(node.label, given, rows, columns)
    check_all(partial(check, node) for check in (check_answers, _check_given, check_template, check_settings))


def _check_given(node: Table) -> None:
    """What the operation makes of its inputs' schemas; an error for columns that its settings name and that are not
    there, with the command that makes them.
    """
    try:
        assert node.schema is not None
    except QuiverError as error:
        lacking = [rows for rows in node.inputs if any(name not in rows_of(rows) for name in error.missing)]
        if lacking and not error.next:
            error.next = _next(from_file.Lack(error.missing, lacking[0], op=node.op), made_by.UNKNOWN)
        raise


def _require(
    rows: Node,
    needed: Schema,
    who: str,
    known: Callable[[], made_by.Known],
    op: Op | None = None,
    learns: Algorithm | None = None,
) -> None:
    """`Schema.requires`, and the command that makes what is missing, its models those that are `known`: asked for where
    something is, because it looks through all trainings before this one. What `learns` from the rows may need others.
    """
    schema = rows_of(rows)
    try:
        schema.requires(needed, who)
    except DataError as error:
        lacking = [name for name in needed.names if name not in schema]
        if learns is not None and (recipe := other_rows.recipe_of(learns)):
            error.expected = f"{error.expected}; {recipe} makes them of a file itself"
        others = "" if learns is None else other_rows.first_step(learns, schema, data_flags(rows), known().reference)
        error.next = (
            others
            or _next(from_file.Lack(lacking, rows, needed, op), known())
            or ("" if learns is None else other_rows.of_another(learns, schema))
            if lacking
            else made_by.without_nulls(needed, schema, data_flags(rows))
        )
        raise


def _next(lack: from_file.Lack, known: made_by.Known) -> str:
    """How rows come to hold what they lack: as their file has it, by other settings of the operation that reads them,
    by a command over them, or by what another file holds.
    """
    schema = rows_of(lack.rows)
    needed = () if lack.needed is None else lack.needed.names
    return (
        from_file.there(lack)
        or from_file.misspelt(lack)
        or ("" if lack.op is None else made_by.in_other_settings(lack.op, schema))
        or made_by.over_rows(lack.names, schema, data_flags(lack.rows), known)
        or from_file.needs(lack)
        or made_by.in_format(lack.names, schema, needed)
    )


def _known_of_model(node: Node | None) -> made_by.Known:
    """The tokenizer of `node`, where it has one."""
    if node is None or node.kind not in ("dataset", "checkpoint"):
        return made_by.UNKNOWN
    return made_by.Known(tokenizer=tokenizer_at(node))


def _known_of_training(node: TrainedCheckpoint) -> made_by.Known:
    return made_by.Known(
        tokenizer=tokenizer_at(node.init or node.tokenizer),
        reference="" if node.init is None else place_of(node.init),
        precision=node.training.learning.precision,
    )


def _check_meant(algorithm: Algorithm, rows: Schema, who: str) -> None:
    """`DataError` for `rows` that hold none of the tokens that `algorithm` learns from, and all that another one does:
    of several the one that leaves the fewest columns unread.
    """
    if {*token_columns(algorithm.rows)} & {*rows.names}:
        return
    others = [name for name, one in algorithms().items() if {*one.rows.names} <= {*rows.names}]
    if others:
        raise DataError(
            "schema",
            f"{algorithm.name} learns nothing from rows of {rows.name}",
            expected=f"rows with {', '.join(algorithm.rows.names)}, or an algorithm that reads these",
            found=f"{', '.join(rows.names)}: rows of {', '.join(others)}",
            where=who,
            kept="nothing was started",
            next=other_rows.of_another(algorithm, rows),
        )


def _check_model(node: TrainedCheckpoint) -> None:
    learning, cut = node.training.learning, node.training.execution.parallel
    node.training.check(init=node.init is not None, validation=node.validation is not None, where=node.label)
    algorithm, _ = configured(learning.algorithm, learning.settings, where=node.label)
    known = partial(_known_of_training, node)
    for given in (node.data, node.validation):
        if given is not None:
            packs = given.schema is not None and algorithm.packed(given.schema)
            needed = algorithm.reads(rows_of(given)) if packs else algorithm.rows
            _check_meant(algorithm, rows_of(given), f"{node.label} (train.{algorithm.name})")
            _require(given, needed, f"{node.label} (train.{algorithm.name})", known, learns=algorithm)
    check_tokenizer(node.label, node.init or node.tokenizer, node.tokenizer)
    for given in (node.data, node.validation):
        if given is not None:
            check_tokenizer(node.label, node.init or node.tokenizer, given, algorithm.rows.names)
    check_settings(node)
    if node.ranks % cut.min_world_size:
        raise ConfigError(
            "parallel-size",
            f"{node.ranks} ranks do not fill {cut}",
            expected=f"a multiple of {cut.min_world_size}",
            where=node.label,
            kept="nothing was started",
        )
