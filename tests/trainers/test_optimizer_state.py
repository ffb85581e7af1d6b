"""The optimizer's state: plain and distributed are one format, and each repair of Megatron's load path is needed."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

from tests.trainers.networks import SMALL
from tests.trainers.resharding import steps_of
from trainers.config import Optim
from trainers.engine.checkpoint import checkpoint, optimizer_state, safe_unpickle
from trainers.engine.megatron import parallel
from trainers.engine.megatron.model import build
from trainers.engine.training import optim
from trainers.parallel import Parallel

Precision = Literal["fp32", "bf16"]


def learner(precision: Precision, distributed: bool, folder: str | None = None, seed: int = 0) -> tuple[Any, Any]:
    """A network under its optimizer, fresh or from a checkpoint."""
    net = build(SMALL, parallel.start(Parallel()), precision=precision, seed=seed)
    ddp = DistributedDataParallelConfig(grad_reduce_in_fp32=True, use_distributed_optimizer=distributed)
    wrapped = DistributedDataParallel(net.config, ddp, net)
    optimizer = optim.build(Optim(lr=1e-2, weight_decay=0.1), wrapped, bf16=precision == "bf16")
    if folder is not None:
        checkpoint.load_weights(wrapped, checkpoint.open_checkpoint(folder))
        checkpoint.load_optimizer(folder, model=wrapped, optimizer=optimizer)
    return wrapped, optimizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[Precision, bool], tuple[str, list[float]]]:
    """Of both precisions and optimizers: a checkpoint after two steps, and the losses of the four steps after it."""
    curves: dict[tuple[Precision, bool], tuple[str, list[float]]] = {}
    for precision in ("fp32", "bf16"):
        for distributed in (False, True):
            folder = str(tmp_path_factory.mktemp("moments") / "c")
            net, optimizer = learner(precision, distributed)
            steps_of(net, optimizer, 2)
            checkpoint.save(folder, model=net, optimizer=optimizer)
            curves[precision, distributed] = (folder, steps_of(net, optimizer, 4))
    return curves


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_each_optimizer_goes_on_from_either(saved: Any, precision: Precision, before: bool, after: bool) -> None:
    folder, wanted = saved[precision, before]
    net, optimizer = learner(precision, after, folder, seed=9)
    assert steps_of(net, optimizer, 4) == wanted


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_both_learn_the_same_and_store_the_same(saved: Any, precision: Precision) -> None:
    (plain, losses), (dealt, others) = saved[precision, False], saved[precision, True]
    assert losses == others
    names = [sorted(safe_unpickle.read_index(f"{folder}/optimizer").state_dict_metadata) for folder in (plain, dealt)]
    assert names[0] == names[1] and (precision == "fp32") == (not [name for name in names[0] if "fp32_param" in name])
    assert len({checkpoint.weights_digest(f"{folder}/optimizer", SMALL) for folder in (plain, dealt)}) == 1


def test_resuming_leaves_the_weights_as_they_were_saved(saved: Any) -> None:
    folder, _ = saved["fp32", True]
    net, optimizer = learner("fp32", True, folder)
    again = checkpoint.save(folder + "-again", model=net, optimizer=optimizer)
    steps_of(net, optimizer, 1)
    checkpoint.save(folder + "-later", model=net, optimizer=optimizer)
    assert again.facts["weights_digest"] == checkpoint.open_checkpoint(folder).weights_digest


def test_without_states_there_is_nothing_to_describe(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer_state, "_make_states", lambda part: None)
    with pytest.raises(AssertionError):
        learner("fp32", True, saved["fp32", True][0])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_megatron_copies_a_step_that_it_does_not_have(
    saved: Any, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizer_state, "_leave_steps_out", lambda part: None)
    with pytest.raises(KeyError):
        learner(precision, True, saved[precision, True][0])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_shared_step_would_drift_in_silence(
    saved: Any, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizer_state, "_part_steps", lambda part: None)
    folder, wanted = saved[precision, True]
    net, optimizer = learner(precision, True, folder)
    shared = {state["step"].data_ptr() for state in optimizer.optimizer.state.values()}
    assert len(shared) == 1 < len(optimizer.optimizer.state)
    curves = steps_of(net, optimizer, 4)
    assert curves != pytest.approx(wanted, rel=1e-5) and torch.isfinite(torch.tensor(curves)).all()
