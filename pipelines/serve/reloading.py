"""Other weights for a model that is served, without an end to the server: those of a checkpoint below the workspace.

Requests that came before are answered by the weights that were there; those that come meanwhile wait, and are answered
by the new ones. What cannot take the model's place (no checkpoint, another shape, tokenizer or end of answers) is
refused, and the weights that were there stay.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.serve.fields import RequestError
from pipelines.serve.models import Place, Served, opened
from schemas.errors import QuiverError, printable

_LONGEST = 4096


@dataclass(frozen=True)
class Reload:
    """A request for the weights of the checkpoint in `folder`; `model` is the name of the one to be replaced."""

    folder: str
    model: str | None

    @staticmethod
    def of(body: Any, root: str) -> Reload:
        """What `body` asks for; `RequestError` for what is no place below the folder `root`."""
        fields: Mapping[str, Any] = body if isinstance(body, dict) else {}
        place, model = fields.get("checkpoint"), fields.get("model")
        if {*fields} - {"checkpoint", "model"} or not (model is None or isinstance(model, str)):
            raise RequestError(
                'expected {"checkpoint": "a path below the workspace"}, and "model" where two are served'
            )
        if not isinstance(place, str) or not 0 < len(place) <= _LONGEST or not place.isprintable():
            raise RequestError("checkpoint is no path", param="checkpoint")
        if not root or "://" in root:
            raise RequestError("this server has no local workspace to take weights from", status=403, code="no_reload")
        top = os.path.realpath(root)
        folder = os.path.realpath(os.path.join(top, place))
        if os.path.commonpath([top, folder]) != top or folder == top:
            raise RequestError(
                "checkpoint is not below the workspace", status=403, param="checkpoint", code="outside_workspace"
            )
        return Reload(folder, model)

    def replacing(self, served: Served) -> Served:
        """The weights there under the name of `served`; `RequestError` where they cannot take its place. Called in the
        thread that has the networks.
        """
        try:
            _require_alike(served, self.folder)
            return opened(Place(self.folder, served.name, served.precision), served.texts.rendering)
        except QuiverError as fault:
            raise RequestError(printable(fault.what, 300), param="checkpoint", code="not_reloaded") from fault


def _require_alike(served: Served, folder: str) -> None:
    from datakit.tokenizers.tokenizer import Tokenizer
    from trainers.architecture import OUTPUT_NAMES, output_names
    from trainers.engine.checkpoint import checkpoint as checkpoints
    from trainers.engine.inference import generator as generators

    source = checkpoints.open_checkpoint(folder)
    other = []
    if source.model != served.network.network.architecture:
        other.append("another shape")
    elif served.generator is None:
        names = output_names(source.manifest.facts.get(OUTPUT_NAMES), source.model.head_size)
        other += ["other names of its numbers"] if [*names] != [*served.outputs] else []
    else:
        _, ends = generators.load_tokenizer(source)
        before = {*served.generator.ends.nonzero()[0].tolist()}, served.generator.stop
        other += ["other ends of answers"] if ({*ends.ids}, tuple(ends.texts)) != before else []
    if Tokenizer.of_folder(folder).identity != served.texts.tokenizer.identity:
        other.append("another tokenizer")
    if other:
        words = f"the checkpoint has {', '.join(other)}: start a server for it"
        raise RequestError(words, status=409, param="checkpoint", code="not_reloaded")
