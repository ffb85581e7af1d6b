"""What holds for every algorithm, whoever wrote it: driven by the registry, so a new one is tested without an edit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import tensor

from schemas import PAIRS, TOKENS
from schemas.canonical import plain
from schemas.errors import ConfigError, DataError
from schemas.schema import Column
from schemas.settings import parse
from tests.trainers import toys
from trainers import registry
from trainers.algorithm import Algorithm, Loss, ModelOutputs, Needs, Per, TokenColumn, sum_count
from trainers.architecture import ModelConfig
from trainers.config import Run
from trainers.engine.data.batch import MicroBatch, assemble
from trainers.engine.data.feed import BatchSharding, DatasetLoader
from trainers.engine.data.rows import Limits, TokenDataset
from trainers.engine.megatron import mixture, parallel
from trainers.engine.megatron.forward import extract_outputs, forward
from trainers.engine.megatron.parallel import Layout
from trainers.engine.training import build
from trainers.engine.training.step import Stepper

ALGORITHMS = registry.algorithms()


@pytest.fixture(scope="module")
def layout() -> Iterator[Layout]:
    torch.set_num_threads(1)
    yield parallel.start()
    parallel.stop()


def shape(algorithm: Algorithm) -> ModelConfig:
    return toys.model(head="scalar" if algorithm.needs.scalar else "lm")


def source(algorithm: Algorithm, folder: Path, table: pa.Table) -> TokenDataset:
    data = toys.put(folder / f"{algorithm.name}-{table.num_rows}", algorithm.rows, table)
    outputs = algorithm.num_outputs(algorithm.settings())
    return TokenDataset(data, algorithm, Limits(48, toys.VOCABULARY, outputs))


def learner(algorithm: Algorithm, layout: Layout, folder: Path) -> build.Trainee:
    run = parse(Run, toys.config(folder, model={**toys.MODEL}))
    return build.trainee(run, algorithm, algorithm.settings(), layout, None)


def gradient(stepper: Stepper, parts: list[Any]) -> tuple[Any, torch.Tensor]:
    stepper.model.zero_grad_buffer()
    outcome = stepper.train(parts)
    return outcome, torch.cat([p.main_grad.flatten() for p in stepper.model.parameters()]).clone()


def same(one: tuple[Any, torch.Tensor], other: tuple[Any, torch.Tensor]) -> None:
    """Loss, weight, metrics and gradient agree to 1e-5."""
    (a, a_grad), (b, b_grad) = one, other
    assert math.isclose(a.loss, b.loss, rel_tol=1e-5) and a.weight == b.weight
    assert a.metrics == pytest.approx(b.metrics, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(a_grad, b_grad, rtol=1e-4, atol=1e-6 * max(1.0, a_grad.abs().max().item()))


def answers_of(algorithm: Algorithm, *, tokens: int, counted: int) -> pa.Table:
    """Four rows of so many tokens, the last `counted` of which are masked in."""
    rows = toys.rows_for(algorithm, 4).to_pylist()
    masks = {sequence.mask for sequence in algorithm.sequences}
    for row in rows:
        for name in algorithm.lists:
            row[name] = row[name][:tokens]
            if name in masks:
                row[name] = [int(tokens - at <= counted) for at in range(tokens)]
    return pa.Table.from_pylist(rows, schema=algorithm.rows.arrow)


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)
class TestEveryAlgorithm:
    def test_is_finite_on_its_own_example(self, algorithm: Algorithm, layout: Layout, tmp_path: Path) -> None:
        rows = source(algorithm, tmp_path, toys.example_for(algorithm, 3))
        outcome, grad = gradient(
            learner(algorithm, layout, tmp_path).stepper, [assemble(algorithm, rows.rows([0, 1, 2]))]
        )
        assert math.isfinite(outcome.loss) and outcome.weight > 0 and torch.isfinite(grad).all()

    def test_says_what_its_loss_weighs_before_it_is_known(
        self, algorithm: Algorithm, layout: Layout, tmp_path: Path
    ) -> None:
        """A mixture's balancing loss is weighed by it."""
        table = toys.rows_for(algorithm, 6)
        for name in algorithm.vectors:
            gaps = [[None if i % 2 else -100.0, *row[1:]] for i, row in enumerate(table[name].to_pylist())]
            at = table.column_names.index(name)
            table = table.set_column(at, table.schema.field(at), pa.array(gaps, table.schema.field(at).type))
        batch = assemble(algorithm, source(algorithm, tmp_path, table).rows(range(6)))
        outcome, _ = gradient(learner(algorithm, layout, tmp_path).stepper, [batch])
        assert mixture.counted(batch, algorithm) == outcome.weight > 0

    def test_does_not_depend_on_the_cut(self, algorithm: Algorithm, layout: Layout, tmp_path: Path) -> None:
        rows = source(algorithm, tmp_path, toys.rows_for(algorithm, 7))
        stepper = learner(algorithm, layout, tmp_path).stepper
        whole, whole_grad = gradient(stepper, [assemble(algorithm, rows.rows(range(7)))])
        rounding = 1e-6 * max(1.0, whole_grad.abs().max().item())
        for cut in ([[3], [0, 6, 1, 2], [5, 4]], [[i] for i in range(7)], [[6, 5, 4, 3, 2, 1, 0], []]):
            parts, parts_grad = gradient(stepper, [assemble(algorithm, rows.rows(part)) for part in cut])
            assert math.isclose(whole.loss, parts.loss, rel_tol=1e-5) and whole.weight == parts.weight
            assert whole.metrics.keys() == parts.metrics.keys() == set(algorithm.metrics)
            for name, value in whole.metrics.items():
                assert math.isclose(value, parts.metrics[name], rel_tol=1e-5, abs_tol=1e-6), name
            torch.testing.assert_close(whole_grad, parts_grad, rtol=1e-4, atol=rounding)

    def test_padding_does_not_matter(self, algorithm: Algorithm, layout: Layout, tmp_path: Path) -> None:
        """Behind the last row, where sequence parallelism fills a micro-batch up."""
        rows = source(algorithm, tmp_path, toys.rows_for(algorithm, 5)).rows(range(5))
        stepper = learner(algorithm, layout, tmp_path).stepper
        plain, filled = assemble(algorithm, rows), assemble(algorithm, rows, multiple=256)
        assert filled.num_tokens % 256 == 0 and filled.num_tokens > filled.num_read == plain.num_tokens
        same(gradient(stepper, [plain]), gradient(stepper, [filled]))

    def test_packs_do_not_matter(self, algorithm: Algorithm, layout: Layout, tmp_path: Path) -> None:
        table = toys.rows_for(algorithm, 7)
        rows = source(algorithm, tmp_path, table)
        schema, packs = toys.packed_rows(algorithm, table, (3, 1, 2, 1))
        data, limits = toys.put(tmp_path / "packs", schema, packs), Limits(48, toys.VOCABULARY)
        if algorithm.vectors:
            with pytest.raises(DataError, match="cannot read packs"):
                TokenDataset(data, algorithm, limits)
            return
        inside = TokenDataset(data, algorithm, limits)
        stepper = learner(algorithm, layout, tmp_path).stepper
        whole = gradient(stepper, [assemble(algorithm, rows.rows(range(7)))])
        same(whole, gradient(stepper, [assemble(algorithm, inside.rows(range(4)))]))
        same(whole, gradient(stepper, [assemble(algorithm, inside.rows(part)) for part in ([3, 0], [2, 1])]))

    def test_its_records_do_not_depend_on_the_cut(self, algorithm: Algorithm, layout: Layout, tmp_path: Path) -> None:
        rows = source(algorithm, tmp_path, toys.rows_for(algorithm, 7))
        stepper, results = learner(algorithm, layout, tmp_path).stepper, []
        for budget in (10_000, 40):
            step = DatasetLoader(rows, batch_rows=7, seed=0, sharding=BatchSharding(budget=budget)).step(0)
            outcome = stepper.train(step.batches, rows=step.num_records)
            assert math.isclose(outcome.rows_RN[:, 0].sum() / outcome.rows_RN[:, 1].sum(), outcome.loss, rel_tol=1e-6)
            results.append(outcome.rows_RN)
        assert len(step.batches) > 1 and results[0].shape == (7, 2 + len(algorithm.row_metrics))
        np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-6)

    def test_learns_through_what_the_network_says(self, algorithm: Algorithm, layout: Layout, tmp_path: Path) -> None:
        rows = source(algorithm, tmp_path, toys.rows_for(algorithm, 5))
        network = learner(algorithm, layout, tmp_path).model
        batch = assemble(algorithm, rows.rows(range(5)))
        outputs = extract_outputs(forward(network, batch), batch, algorithm.needs, toys.VOCABULARY)
        loss = algorithm.loss(
            algorithm.settings(), outputs, batch.rows | dict.fromkeys(algorithm.statistics, tensor(0.5))
        )
        assert loss.values.requires_grad and not loss.weights.requires_grad
        tokens = {len(one.row_T) for one in outputs.values()}
        assert loss.values.shape == loss.weights.shape
        assert len(loss.values) in ({5} if algorithm.per is Per.ROW else tokens)
        assert all(not number.requires_grad for pair in loss.metrics.values() for number in pair)

    def test_the_gradient_is_that_of_the_loss_alone(self, algorithm: Algorithm, layout: Layout, tmp_path: Path) -> None:
        """Reference columns and statistics of the batch are constants of it."""
        batch = assemble(algorithm, source(algorithm, tmp_path, toys.rows_for(algorithm, 5)).rows(range(5)))
        trainee = learner(algorithm, layout, tmp_path)
        outcome, ours = gradient(trainee.stepper, [batch])

        def outputs(of: MicroBatch) -> dict[str, ModelOutputs]:
            return extract_outputs(forward(trainee.model, of), of, algorithm.needs, toys.VOCABULARY)

        constants: dict[str, torch.Tensor] = {}
        if algorithm.statistics_of is not None:
            read = batch.statistics or batch
            open_means = algorithm.statistics_of(algorithm.settings(), outputs(read), read.rows)
            constants = {name: (total / count).detach() for name, (total, count) in open_means.items()}
        loss = algorithm.loss(algorithm.settings(), outputs(batch), batch.rows | constants)
        mean = (loss.values * loss.weights).sum() / loss.weights.sum()
        assert math.isclose(mean.item(), outcome.loss, rel_tol=1e-5)
        trainee.model.zero_grad_buffer()
        mean.backward()
        theirs = torch.cat([p.main_grad.flatten() for p in trainee.model.parameters()])
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6 * max(1.0, ours.abs().max().item()))

    def test_the_shortest_answers_are_finite(self, algorithm: Algorithm, layout: Layout, tmp_path: Path) -> None:
        """One counted token each, behind one of the question."""
        table = answers_of(algorithm, tokens=2, counted=1)
        rows = source(algorithm, tmp_path, table)
        outcome, grad = gradient(
            learner(algorithm, layout, tmp_path).stepper, [assemble(algorithm, rows.rows(range(table.num_rows)))]
        )
        assert math.isfinite(outcome.loss) and outcome.weight > 0 and torch.isfinite(grad).all()

    def test_answers_without_a_token_are_refused_before_the_first_step(
        self, algorithm: Algorithm, layout: Layout, tmp_path: Path
    ) -> None:
        with pytest.raises(DataError, match=f"{algorithm.sequences[0].ids} has fewer than [12] tokens"):
            source(algorithm, tmp_path / "empty", answers_of(algorithm, tokens=0, counted=0))
        masked = answers_of(algorithm, tokens=3, counted=0)
        masks = [sequence.mask for sequence in algorithm.sequences if sequence.mask is not None]
        if masks:
            with pytest.raises(DataError, match=f"{masks[0]} counts no token that can be predicted: 4 rows"):
                source(algorithm, tmp_path / "masked", masked)
        else:
            assert len(source(algorithm, tmp_path / "masked", masked)) == 4

    def test_a_masked_answer_that_gets_through_is_finite(
        self, algorithm: Algorithm, layout: Layout, tmp_path: Path
    ) -> None:
        """Handed to the loss itself, past the check of the rows: it teaches nothing, and spoils no other row."""
        batch = assemble(algorithm, source(algorithm, tmp_path, toys.rows_for(algorithm, 3)).rows(range(3)))
        masks = {s.mask: s.ids for s in algorithm.sequences if s.mask is not None and s.mask in batch.rows}
        rows = dict(batch.rows) | dict.fromkeys(algorithm.statistics, tensor(0.5))
        for mask, ids in masks.items():
            rows[mask] = rows[mask] * (batch.spans[ids].row_T != 1)
        network = learner(algorithm, layout, tmp_path).model
        outputs = extract_outputs(forward(network, batch), batch, algorithm.needs, toys.VOCABULARY)
        loss = algorithm.loss(algorithm.settings(), outputs, rows)
        assert torch.isfinite(loss.values).all() and torch.isfinite(loss.weights).all() and loss.weights.sum() > 0

    def test_settings_are_their_own_json(self, algorithm: Algorithm, layout: Layout, tmp_path: Path) -> None:
        settings = algorithm.settings()
        assert dataclasses.is_dataclass(settings) and parse(algorithm.settings, plain(settings)) == settings
        with pytest.raises(ConfigError, match="unknown key"):
            parse(algorithm.settings, {"no_such_setting": 1})


def of_batch(settings: object, outputs: dict[str, ModelOutputs], rows: dict[str, torch.Tensor]) -> Loss:
    """Asks everything a head for log-probs can be asked, and a mean over the whole batch."""
    answer, mask_T = outputs["input_ids"], rows["loss_mask"].float()
    centred_T = answer.logprobs_T - rows["reference"]
    values_T = -centred_T * rows["advantage"] - 0.1 * answer.entropy_T - answer.gathered_TK.mean(-1)
    return Loss(values_T, mask_T, {"entropy": sum_count(answer.entropy_T, mask_T)})


def of_values(settings: object, outputs: dict[str, ModelOutputs], rows: dict[str, torch.Tensor]) -> Loss:
    """A critic: squared error of a value per token."""
    values_T = outputs["input_ids"].values_TH[:, 0]
    return Loss((values_T - rows["advantage"]) ** 2, rows["loss_mask"].float(), {})


def of_pairs(settings: object, outputs: dict[str, ModelOutputs], rows: dict[str, torch.Tensor]) -> Loss:
    """Log-probs of two sequence columns of one forward pass."""
    chosen, rejected = outputs["chosen_ids"], outputs["rejected_ids"]
    values_B = rejected.sum_per_row(rejected.logprobs_T) - chosen.sum_per_row(chosen.logprobs_T)
    return Loss(values_B, values_B.new_ones(values_B.shape), {})


def test_a_new_algorithm_needs_no_edit(layout: Layout, tmp_path: Path) -> None:
    rows = TOKENS.adding(
        Column("advantage", pa.list_(pa.float32()), "per token"),
        Column("teacher_ids", pa.list_(pa.list_(pa.int32())), "choices per token"),
    )
    whole = TokenColumn(ids="input_ids", mask="loss_mask", aligned=("advantage",), gather_ids="teacher_ids")
    policy = Algorithm(
        name="toy-policy",
        rows=rows,
        sequences=(whole,),
        needs=Needs.LOGPROBS | Needs.ENTROPY | Needs.GATHERED,
        per=Per.TOKEN,
        settings=ALGORITHMS["sft"].settings,
        loss=of_batch,
        metrics=("entropy",),
        statistics=("reference",),
        statistics_of=lambda s, outputs, r: {"reference": sum_count(outputs["input_ids"].logprobs_T, r["loss_mask"])},
    )
    critic = dataclasses.replace(
        policy,
        name="toy-critic",
        rows=rows.dropping("teacher_ids"),
        sequences=(TokenColumn(ids="input_ids", mask="loss_mask", aligned=("advantage",)),),
        needs=Needs.VALUES,
        loss=of_values,
        metrics=(),
        statistics=(),
        statistics_of=None,
    )
    outside = toys.rows_for(policy, 4).to_pylist()
    outside[2]["teacher_ids"][1][0] = toys.VOCABULARY
    with pytest.raises(DataError, match=f"teacher_ids holds ids outside the vocabulary of {toys.VOCABULARY}: 1 row"):
        source(policy, tmp_path / "outside", pa.Table.from_pylist(outside, schema=rows.arrow))
    pair = dataclasses.replace(
        critic,
        name="toy-pair",
        rows=PAIRS.dropping("source"),
        sequences=tuple(TokenColumn(ids=f"{side}_ids", mask=f"{side}_mask") for side in ("chosen", "rejected")),
        needs=Needs.LOGPROBS,
        per=Per.ROW,
        loss=of_pairs,
    )
    for algorithm in (policy, critic, pair):
        suite = TestEveryAlgorithm()
        suite.test_does_not_depend_on_the_cut(algorithm, layout, tmp_path)


def test_padding_of_the_vocabulary_has_no_probability(layout: Layout, tmp_path: Path) -> None:
    """60 ids lie in 64 rows; the network must not know."""
    algorithm = ALGORITHMS["sft"]
    rows = source(algorithm, tmp_path, toys.rows_for(algorithm, 4))
    network = learner(algorithm, layout, tmp_path).model
    batch = assemble(algorithm, rows.rows(range(4)))
    logits = forward(network, batch)
    assert logits.shape[-1] == 64
    dense_T = torch.log_softmax(logits[0, :, :60].detach().clone(), -1).gather(-1, batch.labels_1t[0][:, None])
    outputs = extract_outputs(logits, batch, algorithm.needs, 60)
    torch.testing.assert_close(outputs["input_ids"].logprobs_T, dense_T[:, 0], rtol=1e-5, atol=1e-6)
