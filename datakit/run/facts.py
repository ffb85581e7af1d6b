"""What a result's manifest tells of tokenizers and models, and what is checked of them before any work.

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
from schemas.dataset import Dataset
from schemas.settings import canonical

_KEY = f"{tokenizer_lineage.FACT}_key"


def check_tokenizers(op: Op, inputs: Sequence[Dataset], resources: Mapping[str, Resource]) -> None:
    """`DataError` if rows hold ids, in a column that a resource reads, of another tokenizer than it speaks."""
    for name, resource in resources.items():
        for dataset in inputs:
            tokenizers = tokenizer_lineage.tokenizers_of(dataset.schema, dataset.facts)
            columns = [*tokenizer_lineage.token_columns(op.takes), *tokenizer_lineage.token_columns(resource.takes)]
            tokenizer_lineage.check(tokenizers, columns, resource.vocabulary, f"the {name} of {op.name}", dataset.url)


def facts_of(op: Op, inputs: Sequence[Dataset], resources: Mapping[str, Resource], schema: Schema) -> dict[str, Any]:
    """What the inputs' manifests told (a list where they differ), the keys of the resources by name, and which
    tokenizer the columns speak.
    """
    facts: dict[str, Any] = {}
    for name in sorted({name for dataset in inputs for name in dataset.facts} - {tokenizer_lineage.FACT}):
        distinct = sorted({canonical(dataset.facts[name]) for dataset in inputs if name in dataset.facts})
        values = [json.loads(text) for text in distinct]
        facts[name] = values[0] if len(values) == 1 else values
    for name, resource in sorted(resources.items()):
        facts[_KEY if name == tokenizer_lineage.FACT else name] = resource.key
    spoken = [tokenizer_lineage.tokenizers_of(dataset.schema, dataset.facts) for dataset in inputs]
    return facts | tokenizer_lineage.fact(
        tokenizers_after(op, [d.schema for d in inputs], spoken, schema, tokenizer_of(resources))
    )


def tokenizers_after(
    op: Op, inputs: Sequence[Schema], spoken: Sequence[tokenizer_lineage.TokenizerByColumn], schema: Schema, speaks: str
) -> tokenizer_lineage.TokenizerByColumn:
    """What the columns of a result of `op` speak, given what those of its inputs do and what its resources do."""
    if op.renames:
        tokenizers = {one for given in spoken for several in given.values() for one in several}
        return dict.fromkeys(tokenizer_lineage.token_columns(schema), tuple(sorted(tokenizers))) if tokenizers else {}
    before = {name for given in inputs for name in given.names}
    new = {name for name in schema.names if name not in before}
    if isinstance(op, Label):
        new |= {column.name for column in op.adds}
    return tokenizer_lineage.passed_on(schema, spoken, new, speaks)


def tokenizer_of(resources: Mapping[str, Resource]) -> str:
    """The identity of the tokenizer among the resources, or of that which a model among them speaks.

    A tokenizer that was handed over without one is known by its key.
    """
    named = resources.get(tokenizer_lineage.FACT)
    if named is not None:
        return named.vocabulary or named.key
    return next((resource.vocabulary for resource in resources.values() if resource.vocabulary), "")
