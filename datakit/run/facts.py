"""The facts in a result's manifest about tokenizers and models, and what is checked of them before any work.

Every column of ids or templated pieces is followed from where it is made (`schemas.tokenizer_lineage`): rows in ids of
one tokenizer never reach a network, a template's encoding or a decoder of another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from datakit.op import Label, Op
from datakit.run.resource import Resource
from schemas import Schema, tokenizer_lineage
from schemas.canonical import canonical
from schemas.dataset import Dataset

_KEY = f"{tokenizer_lineage.FACT}_key"


def check_tokenizers(op: Op, inputs: Sequence[Dataset], resources: Mapping[str, Resource]) -> None:
    """`DataError` if rows hold ids, in a column that a resource reads, of another tokenizer than the resource's."""
    for name, resource in resources.items():
        for dataset in inputs:
            tokenizers = tokenizer_lineage.tokenizers_of(dataset.schema, dataset.facts)
            columns = [*tokenizer_lineage.token_columns(op.takes), *tokenizer_lineage.token_columns(resource.takes)]
            tokenizer_lineage.check(tokenizers, columns, resource.tokenizer_id, f"the {name} of {op.name}", dataset.url)


def facts_of(op: Op, inputs: Sequence[Dataset], resources: Mapping[str, Resource], schema: Schema) -> dict[str, Any]:
    """The facts of the inputs' manifests (a list where they differ), the keys of the resources by name, and the
    tokenizer of each column of ids.
    """
    passed_over = {tokenizer_lineage.FACT, *op.replaced_facts}
    facts = joined([{k: v for k, v in one.facts.items() if k not in passed_over} for one in inputs])
    for name, resource in sorted(resources.items()):
        facts[_KEY if name == tokenizer_lineage.FACT else name] = resource.content_key
    before = [tokenizer_lineage.tokenizers_of(dataset.schema, dataset.facts) for dataset in inputs]
    return facts | tokenizer_lineage.fact(
        tokenizers_after(op, [d.schema for d in inputs], before, schema, tokenizer_of(resources))
    )


def joined(inputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The facts of several manifests: a list of values where they differ."""
    facts: dict[str, Any] = {}
    for name in sorted({name for one in inputs for name in one}):
        distinct = sorted({canonical(one[name]) for one in inputs if name in one})
        values = [json.loads(text) for text in distinct]
        facts[name] = values[0] if len(values) == 1 else values
    return facts


def tokenizers_after(
    op: Op, inputs: Sequence[Schema], before: Sequence[tokenizer_lineage.TokenizerByColumn], schema: Schema, own: str
) -> tokenizer_lineage.TokenizerByColumn:
    """The tokenizers of the columns of a result of `op`: `before` are those of its inputs' columns, `own` the one of
    its resources ("" if they have none).
    """
    if op.renames:
        tokenizers = {one for given in before for several in given.values() for one in several}
        return dict.fromkeys(tokenizer_lineage.token_columns(schema), tuple(sorted(tokenizers))) if tokenizers else {}
    old = {name for given in inputs for name in given.names}
    new = {name for name in schema.names if name not in old}
    if isinstance(op, Label):
        new |= {column.name for column in op.adds}
    sources = tokenizer_lineage.token_columns(op.takes) if isinstance(op, Label) else ()
    return tokenizer_lineage.passed_on(schema, before, new, own, sources)


def tokenizer_of(resources: Mapping[str, Resource]) -> str:
    """The identity of the tokenizer among the resources, or that of a model among them.

    A tokenizer that was handed over without one is known by its key.
    """
    named = resources.get(tokenizer_lineage.FACT)
    if named is not None:
        return named.tokenizer_id or named.content_key
    return next((resource.tokenizer_id for resource in resources.values() if resource.tokenizer_id), "")
