"""Training as an object: learning is the run's own, what it is asked follows the weights, and it can be let go of."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from datakit.clients import protocols
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError, HealthError
from schemas.settings import parse
from schemas.store.commit import read_manifest
from tests.tail import late
from tests.trainers import toys
from tests.trainers.networks import louder, network, vocabulary
from tests.trainers.sampling import Sampling
from tests.warm import command
from trainers import engine, registry
from trainers import run as runs
from trainers.config import Run
from trainers.engine.checkpoint import checkpoint
from trainers.engine.inference.frozen import open_frozen, open_scorer
from trainers.engine.inference.generator import open_generator
from trainers.engine.training.trainer import Trainer

CONSTANT = {"lr": 1e-2}


def a_run(folder: Path, **changes: Any) -> Run:
    """A run whose rows are yet to come, from a network with a tokenizer."""
    torch.set_num_threads(1)
    if not (folder / "init").exists():
        shape = {**toys.MODEL, "window": 8}
        net = louder(network(**shape), 3.0)
        checkpoint.save(str(folder / "init"), model=net, tokenizer_files=vocabulary(toys.VOCABULARY))
    settings = {"data": ..., "init": str(folder / "init"), "model": ..., "optim": CONSTANT, **changes}
    return parse(Run, toys.config(folder, **settings))


def prompts(count: int = 6) -> pa.Table:
    return pa.table({"prompt_ids": pa.array(toys.ids(count, seed=5, most=20), pa.list_(pa.int32()))})


def drawn(generator: Any, **settings: Any) -> pa.Table:
    return generator.generate(prompts(), Sampling(samples_per_prompt=2, **settings), np.arange(6, dtype=np.uint64))


def learn(trainer: Trainer, *seeds: int) -> list[dict[str, float]]:
    return [trainer.learn(toys.tokens(9, seed=seed)) for seed in seeds]


@pytest.mark.parametrize("name", ["sft", late("rm"), late("rm_regression"), "dpo"])
def test_learning_is_the_run_bit_for_bit(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    algorithm = registry.algorithms()[name]
    table = toys.rows_for(algorithm, 31)
    data = toys.put(tmp_path / "rows", algorithm.rows, table.slice(0, 20), table.slice(20))
    whole = parse(Run, toys.config(tmp_path, algorithm=name, data=data.url))
    runs.execute(whole)
    place = {name: number for number, name in enumerate(table[algorithm.rows.key[0]].to_pylist())}
    changes = {"data": ..., "out": str(tmp_path / "object"), "global_batch_size": 1}
    figures = []
    with engine.open(parse(Run, toys.config(tmp_path, algorithm=name, **changes))) as trainer:
        for line in toys.row_log(whole.paths.folder):
            figures.append(trainer.learn(table.take([place[key] for key in line["rows"]])))
        saved = trainer.save()
    lines = toys.curve(whole.paths.folder)
    assert len(figures) == 8 and all(name in figures[0] for name in ("loss", "lr", "grad_norm", *algorithm.metrics))
    assert figures == [{name: line[name] for name in figures[0]} for line in lines]
    manifest = read_manifest(whole.paths.out)
    assert manifest is not None and saved.facts["weights_digest"] == manifest.facts["weights_digest"]
    assert saved.facts["stats"]["steps"] == 8 and saved.facts["stats"]["loss"] == figures[-1]["loss"]


def test_it_answers_from_the_weights_as_they_stand(tmp_path: Path) -> None:
    with engine.open(a_run(tmp_path)) as trainer:
        generator = trainer.generator(batch_size=5)
        assert isinstance(generator, protocols.Generator)
        assert drawn(generator).equals(drawn(open_generator(str(tmp_path / "init"), batch_size=5)))
        for step in (1, 2):
            before = drawn(generator)
            learn(trainer, step)
            trainer.save(str(tmp_path / f"step-{step}"))
            after = drawn(generator)
            assert after.equals(drawn(open_generator(str(tmp_path / f"step-{step}"), batch_size=5)))
            assert not after.equals(before), "the step changed nothing"
        rows = [np.array(row) for row in toys.ids(5, seed=3)]
        frozen, live = open_frozen(str(tmp_path / "step-2")), trainer.token_model()
        assert live.logprobs(rows).equals(frozen.logprobs(rows)) and live.entropies(rows).equals(frozen.entropies(rows))


def test_asking_leaves_learning_alone(tmp_path: Path) -> None:
    """With a window, whose mask attention keeps from one pass to the next."""
    with engine.open(a_run(tmp_path)) as trainer:
        alone = learn(trainer, 1, 2, 3)
    asked = []
    with engine.open(a_run(tmp_path)) as trainer:
        generator = trainer.generator()
        for seed in (1, 2, 3):
            drawn(generator)
            asked += learn(trainer, seed)
    assert asked == alone and alone[2]["loss"] > 0


def test_adapters_answer_as_when_folded(tmp_path: Path) -> None:
    lora = {"rank": 4, "alpha": 32.0, "dropout": 0.3}
    with engine.open(a_run(tmp_path, lora=lora)) as trainer:
        learn(trainer, 1, 2, 3)
        before = drawn(open_generator(str(tmp_path / "init")), greedy=True)
        live = drawn(trainer.generator(), greedy=True)
        trainer.save()
        folded = drawn(open_generator(str(tmp_path / "policy")), greedy=True)
    assert live["response_ids"].equals(folded["response_ids"]) and not live.equals(before)
    logprobs = [np.concatenate(table["logprobs"].to_pylist()) for table in (live, folded)]
    np.testing.assert_allclose(*logprobs, atol=2e-5)


def test_a_reward_model_scores_as_it_stands(tmp_path: Path) -> None:
    rows = toys.rows_for(registry.algorithms()["rm_regression"], 9)
    with engine.open(a_run(tmp_path, algorithm="rm_regression", init=..., model=toys.MODEL)) as trainer:
        scorer = trainer.scorer()
        assert isinstance(scorer, protocols.Scorer)
        first = scorer.score(rows)
        trainer.learn(rows)
        trainer.save()
        reopened = open_scorer(str(tmp_path / "policy")).score(rows)
        assert scorer.score(rows) == reopened != first
        assert list(first) == ["helpfulness", "correctness", "coherence", "complexity", "verbosity"]
        with pytest.raises(ConfigError, match="trains no policy"):
            trainer.generator()


def test_a_head_keeps_the_names_of_its_numbers(tmp_path: Path) -> None:
    """As many numbers under other names would be learnt, and scored, in each other's places."""
    rows = toys.rows_for(registry.algorithms()["rm_regression"], 9)
    with engine.open(a_run(tmp_path, algorithm="rm_regression", init=..., model=toys.MODEL)) as trainer:
        trainer.learn(rows)
        trainer.save(str(tmp_path / "scorer"))
    names = ["correctness", "helpfulness", "coherence", "complexity", "verbosity"]
    swapped = {"algorithm": "rm_regression", "init": str(tmp_path / "scorer"), "settings": {"attributes": names}}
    with pytest.raises(ConfigError, match="other names") as caught:
        engine.open(a_run(tmp_path, **swapped))
    assert caught.value.found.startswith("correctness, helpfulness")


def test_closed_it_makes_room_for_another_network(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    trainer = engine.open(a_run(tmp_path, threads=2))
    learn(trainer, 1)
    trainer.close()
    trainer.close()
    assert torch.get_num_threads() == threads
    for act in (lambda: trainer.learn(toys.tokens(3)), trainer.generator, trainer.save):
        with pytest.raises(ConfigError, match="is closed"):
            act()
    other = {**toys.MODEL, "num_layers": 3, "hidden_size": 24, "normalization": "LayerNorm", "position": "learned"}
    with engine.open(a_run(tmp_path, init=..., model=other, max_steps=..., epochs=1)) as second:
        figures = learn(second, *range(6))
    assert figures[-1]["loss"] < figures[0]["loss"] and figures[-1]["lr"] == 1e-2


def test_rows_that_cannot_be_learnt_make_no_step(tmp_path: Path) -> None:
    rows = toys.tokens(3)
    beyond = rows.set_column(1, "input_ids", pa.array([[1, 2], [3, toys.VOCABULARY], [4, 5]], pa.list_(pa.int32())))
    refused: list[tuple[Any, str]] = [
        (rows.drop_columns(["loss_mask"]), "no column loss_mask"),
        (rows.set_column(2, "loss_mask", pa.array(["x", "y", "z"])), "loss_mask is string"),
        (beyond.set_column(2, "loss_mask", pa.array([[1, 1]] * 3, pa.list_(pa.int8()))), "first s1"),
        ({"input_ids": [[1, 2], [3, 60]], "loss_mask": [[1, 1], [1, 1]]}, "first row 1"),
        (rows.slice(0, 0), "a step needs rows"),
        (["a", "list"], "are no table"),
    ]
    with engine.open(a_run(tmp_path)) as trainer:
        for given, words in refused:
            with pytest.raises(DataError, match=words) as caught:
                trainer.learn(given)
            assert caught.value.kept == "the network and its optimizer, as they were"
        assert trainer.steps == 0
        with pytest.raises(ConfigError, match="trains no reward model"):
            trainer.scorer()
        mended = learn(trainer, 1)
    with engine.open(a_run(tmp_path)) as trainer:
        assert learn(trainer, 1) == mended


def test_a_dict_of_columns_is_a_table(tmp_path: Path) -> None:
    rows = toys.tokens(4)
    columns = {name: rows[name].to_pylist() for name in ("input_ids", "loss_mask")}
    figures = []
    for given in (rows, columns):
        with engine.open(a_run(tmp_path, max_steps=1)) as trainer:
            figures.append(trainer.learn(given))
    assert figures[0] == figures[1] and figures[0]["rows"] == 4


def test_a_loss_that_is_not_finite_leaves_the_weights(tmp_path: Path) -> None:
    algorithm = registry.algorithms()["dpo"]
    rows = toys.rows_for(algorithm, 4)
    name = "ref_logprob_chosen"
    bad = rows.set_column(rows.column_names.index(name), name, pa.array([3e38, 0.0, 0.0, 0.0]))
    with engine.open(a_run(tmp_path, algorithm="dpo", settings={"beta": 10.0})) as trainer:
        with pytest.raises(HealthError, match="loss of step 1") as caught:
            trainer.learn(bad)
        assert caught.value.kept == "the weights as they were before this step"
        figures = trainer.learn(rows)
    with engine.open(a_run(tmp_path, algorithm="dpo", settings={"beta": 10.0})) as trainer:
        assert trainer.learn(rows) == figures


def test_the_key_of_what_was_saved_follows_the_rows(tmp_path: Path) -> None:
    keys = []
    for number, seeds in enumerate(((1, 2), (1, 2), (2, 1))):
        with engine.open(a_run(tmp_path, out=str(tmp_path / f"out-{number}"))) as trainer:
            learn(trainer, *seeds)
            keys.append(trainer.save().task_key)
    assert keys[0] == keys[1] != keys[2]


def test_two_threads_are_one_too_many_and_closed_is_closed(tmp_path: Path) -> None:
    """The second thread comes while the first is inside its step, however long that takes."""
    inside, go_on, figures = threading.Event(), threading.Event(), list[dict[str, float]]()
    with engine.open(a_run(tmp_path)) as trainer:
        train = trainer.stepper.train

        def slowly(*batches: Any, **options: Any) -> Any:
            inside.set()
            assert go_on.wait(60)
            return train(*batches, **options)

        trainer.stepper.train = slowly  # type: ignore[method-assign]
        first = threading.Thread(target=lambda: figures.extend(learn(trainer, 1)))
        first.start()
        assert inside.wait(60)
        for call in (lambda: learn(trainer, 2), trainer.save, trainer.close):
            with pytest.raises(ConfigError, match="trainer-busy"):
                call()
        go_on.set()
        first.join()
        assert trainer.steps == len(figures) == 1
        assert learn(trainer, 2)[0]["rows"] == 9
    for call in (lambda: learn(trainer, 3), trainer.save, trainer.generator, trainer.token_model):
        with pytest.raises(ConfigError, match="this trainer is closed"):
            call()
    trainer.close()


def test_two_open_trainers_learn_what_each_learns_alone(tmp_path: Path) -> None:
    with engine.open(a_run(tmp_path)) as alone:
        expected = learn(alone, 1, 2, 3)
    with engine.open(a_run(tmp_path)) as one, engine.open(a_run(tmp_path)) as other:
        steps = [(learn(one, seed)[0], learn(other, seed)[0]) for seed in (1, 2, 3)]
    assert [step for step, _ in steps] == expected and [step for _, step in steps] == expected


def test_a_falling_schedule_needs_its_last_step(tmp_path: Path) -> None:
    falling = {"lr": 1e-2, "schedule": "linear"}
    with pytest.raises(ConfigError, match="no-last-step"):
        engine.open(a_run(tmp_path, optim=falling, max_steps=..., epochs=2))
    with engine.open(a_run(tmp_path, optim=falling, max_steps=2)) as trainer:
        assert [step["lr"] for step in learn(trainer, 1, 2, 3)] == [1e-2, 5e-3, 0.0]
    with pytest.raises(ConfigError, match="the run has no data"):
        runs.execute(a_run(tmp_path))


def test_the_optimizer_is_carried_from_run_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with engine.open(a_run(tmp_path, out=str(tmp_path / "whole"))) as trainer:
        learn(trainer, 1, 2, 3, 4)
        whole = trainer.save().facts["weights_digest"]
    digests = {}
    for carried in (True, False):
        first, second = (str(tmp_path / f"{part}-{carried}") for part in ("first", "second"))
        with engine.open(a_run(tmp_path, out=first, carry_optimizer=carried)) as trainer:
            learn(trainer, 1, 2)
            trainer.save()
        assert checkpoint.open_checkpoint(first).has_optimizer is carried
        with engine.open(a_run(tmp_path, init=first, out=second, carry_optimizer=carried)) as trainer:
            learn(trainer, 3, 4)
            digests[carried] = trainer.save().facts["weights_digest"]
    assert digests[True] == whole != digests[False]
    assert capsys.readouterr().err.count("has no optimizer state to carry on") == 1
    bare, carrying = a_run(tmp_path), a_run(tmp_path, carry_optimizer=True)
    assert "carry_optimizer" not in bare.learning.op["params"] and bare.task_key() != carrying.task_key()
    with pytest.raises(ConfigError, match="precision fp32 -> bf16"):
        engine.open(a_run(tmp_path, init=str(tmp_path / "first-True"), carry_optimizer=True, precision="bf16"))


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    init = a_run(tmp_path).paths.init
    assert Dataset.exists(str(tmp_path / "tokens"))
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", 2, "--no-python", *command.python())
    command.launched(1, *torchrun, "tests.trainers.learner", tmp_path, tmp_path / "answers.json")
    two = json.loads((tmp_path / "answers.json").read_text())
    run = parse(Run, toys.config(tmp_path, data=..., init=init, model=..., out=str(tmp_path / "alone")))
    figures = []
    with engine.open(run) as trainer:
        for number in range(3):
            figures.append(trainer.learn(toys.tokens(7, seed=number)))
        asked = toys.tokens(4, seed=9).select(["input_ids"]).rename_columns(["prompt_ids"])
        seeds = np.arange(4, dtype=np.uint64)
        ids = trainer.generator().generate(asked, Sampling(greedy=True), seeds)["response_ids"].to_pylist()
        figures.append(trainer.learn(toys.tokens(7, seed=3)))
    assert two.pop("refused") == ["unlike-rows", "schema"]
    for cut, answers in two.items():
        for here, there in zip(figures, answers["figures"], strict=True):
            assert there == pytest.approx(here, rel=2e-5), cut
        assert answers["ids"] == ids, cut
    assert len({answers["key"] for answers in two.values()}) == 1, "the cut changes no identity"
