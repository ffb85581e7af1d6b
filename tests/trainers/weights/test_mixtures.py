"""Mixtral's load-balancing loss: learnt where its own library would learn it, and with the weight that it has there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.weights import tiny
from trainers.engine.checkpoint import checkpoint
from trainers.engine.weights.export_hf import export
from trainers.engine.weights.import_hf import import_hf


@pytest.mark.parametrize(
    ("keys", "weight"),
    [
        ({"router_aux_loss_coef": 0.02}, 0.0),
        ({"router_aux_loss_coef": 0.02, "output_router_logits": False}, 0.0),
        ({"router_aux_loss_coef": 0.02, "output_router_logits": True}, 0.02),
        ({"router_aux_loss_coef": None, "output_router_logits": True}, 0.001),
    ],
)
def test_a_mixture_is_balanced_where_a_call_returns_the_routers_logits(
    keys: dict[str, Any], weight: float, tmp_path: Path
) -> None:
    """`output_router_logits` decides it (false by default); one product over all layers is a sum of one a layer here,
    and a token's choices count one each there, and together one here.
    """
    folder = tiny.write("mixtral", tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    config = {name: value for name, value in {**config, **keys}.items() if value is not None}
    if "output_router_logits" not in keys:
        config.pop("output_router_logits", None)
    (folder / "config.json").write_text(json.dumps(config))
    import_hf(str(folder), str(tmp_path / "net"), check="off", say=lambda line: None)
    model = checkpoint.open_checkpoint(str(tmp_path / "net")).model
    assert model.experts is not None
    layers, chosen = config["num_hidden_layers"], config["num_experts_per_tok"]
    assert layers > 1 < chosen and model.experts.balance == pytest.approx(weight * chosen / layers)
    export(str(tmp_path / "net"), str(tmp_path / "back"), check="off", say=lambda line: None)
    back = json.loads((tmp_path / "back" / "config.json").read_text())
    assert back.get("output_router_logits", False) == bool(weight)
    assert back.get("router_aux_loss_coef", 0.0) == pytest.approx(weight)
