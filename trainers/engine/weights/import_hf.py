"""Another program's model becomes a checkpoint: checked whole, copied tensor by tensor, compared with transformers."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from schemas.canonical import canonical
from schemas.end_tokens import TurnEnd
from schemas.errors import QuiverError
from schemas.manifest import Manifest
from schemas.nemo.model import is_nemo
from schemas.store import commit
from trainers.adapter_folder import is_adapters, read_adapters
from trainers.engine.checkpoint import checkpoint
from trainers.engine.weights import check as checks
from trainers.engine.weights import padding, registry, stream, tokenizer
from trainers.engine.weights.adapted_folder import AdaptedFolder
from trainers.engine.weights.check import Check
from trainers.engine.weights.folder import CONFIG, Folder
from trainers.engine.weights.local_paths import local
from trainers.engine.weights.nemo.source import incoming
from trainers.engine.weights.plan import Incoming, Plan, planned

VERSION = 2


def import_hf(
    source: str,
    out: str,
    *,
    base: str = "",
    tokenizer_from: str | None = None,
    task_key: str = "",
    facts: Mapping[str, Any] | None = None,
    check: Check = "auto",
    as_named: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = print,
) -> Manifest:
    """Write the model in the Hugging Face folder `source` as the checkpoint `out`; the manifest that stands there.

    `source` may be a model of NeMo (`schemas.nemo`), whose logits are compared with nothing. It may hold PEFT's
    adapters: the model is then that which they make of the one in `base`, or of the one that they name. tokenizer_from:
    a tokenizer dataset or folder, in place of the folder's own tokenizer. task_key: the checkpoint's, if it has one.
    facts: more facts for its manifest; `turn_end` is how its chat template ends a turn.
    check: "auto" compares logits with transformers where that is possible and says why it is not, "on" insists, "off"
    does not. as_named: called when all was read; what it raises ends the import. say: takes a line of progress.

    One piece of one tensor is in memory at a time; the comparison runs in a process of its own. `ConfigError` for a
    config or folder that is not supported, `DataError` for missing, unexpected or misshapen tensors and for logits
    that differ: all by name, and nothing is left behind. The same content there already is success, and with the same
    `task_key` nothing is even read.
    """
    began = time.monotonic()
    standing = commit.find_existing(out, task_key, "checkpoint")
    if standing is not None:
        say(f"{out} is already there")
        return standing
    path = local(source)
    opened = incoming if is_nemo(path) else partial(_incoming, base)
    with opened(path, tokenizer_from, say, TurnEnd.of(facts or {})) as given:
        plan, words, model = given.plan, given.words, given.plan.model
        say(f"{given.family or 'of no Hugging Face family'}: {_numbers(plan):,} parameters, {_types(plan)}")
        attempt = commit.begin_attempt(out, (checkpoint.WEIGHTS,))
        try:
            here = local(commit.attempt_path(out, attempt))
            stream.write(os.path.join(here, checkpoint.WEIGHTS), plan.dtypes, plan.make)
            compared = given.compare(here, check)
            as_named()
            say(compared.line)
        except BaseException:
            with suppress(QuiverError, OSError):
                commit.discard_attempt(out, attempt)
            raise
    family = {"family": given.family} if given.family else {}
    claims = {
        "task_key": task_key,
        "op": {"name": "adopt", "version": VERSION, "params": family},
        "parents": words.parents,
        "seed": 0,
        "facts": {**(facts or {}), "tokenizer": words.identity, **family, "check": compared.fact},
        "runtime_info": {"source": path, "check": compared.figures, "seconds": round(time.monotonic() - began, 3)},
    }
    texts = {checkpoint.MODEL: canonical(model), **words.files}
    return checkpoint.Draft(out, attempt, (), texts, model, claims).publish()


@contextmanager
def _incoming(
    base: str, path: str, tokenizer_from: str | None, say: Callable[[str], None], taught: TurnEnd
) -> Iterator[Incoming]:
    """The model in the Hugging Face folder `path`, or that which the adapters there make."""
    adapters = read_adapters(path, base and local(base)) if is_adapters(path) else None
    folder = Folder(path) if adapters is None else AdaptedFolder(adapters)
    config = os.path.join(folder.path, CONFIG)
    family = registry.of_config(folder.config, config)
    model = family.model(folder.config, config)
    plan = planned(folder, family, model)
    own = tokenizer.of_folder(folder.tokenizer_place) if tokenizer_from is None else tokenizer.at(tokenizer_from)
    words = tokenizer.chosen(folder, own, tokenizer_from, model, say, taught)
    if model.head == "scalar" and folder.config.get(padding.PAD) in padding.ends_of(folder.config):
        say("pad_token_id is an end token: transformers reads scores before it, the engine at it")

    def compare(here: str, check: Check) -> checks.CheckResult:
        return checks.compare(folder.path, here, model, check, folder.numel(), adapters=adapters)

    yield Incoming(plan, words, family.name, compare)


def _numbers(plan: Plan) -> int:
    return sum(math.prod(stack.size) for stack, _ in plan.dtypes)


def _types(plan: Plan) -> str:
    return ", ".join(sorted({str(dtype).removeprefix("torch.") for _, dtype in plan.dtypes}))
