"""Several updates of a step: what the policy was as it drew, and what it was at first, are columns of its rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datakit.label import GroupAdvantage
from datakit.online import StepLogprobs
from datakit.online.logprobs import COLUMNS
from datakit.tokenize import Drawn
from pipelines.online.__main__ import execute
from pipelines.online.config import OnlineRun
from pipelines.online.logprobs import served
from pipelines.recipes import Grpo, Reinforce
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from schemas.store.commit import read_manifest
from tests.pipelines import judges
from tests.pipelines.online import runs
from tests.pipelines.online.test_recipe import planned
from tests.trainers import online, toys
from trainers import engine
from trainers.engine.inference.frozen import open_frozen

BOTH: Any = tuple(COLUMNS)
ROWS = (Drawn(), GroupAdvantage(scale="none"), StepLogprobs(columns=BOTH))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("logprobs")
    online.init(place)
    runs.prompts(place)
    sys.modules.setdefault("judges", judges)
    return place


def ppo(folder: Path, name: str, **changes: Any) -> OnlineRun:
    """Two updates of each of two steps, held against the policy that drew and against the first."""
    settings = {"algorithm": "ppo", "settings": {"kl_coefficient": 0.1}, "max_steps": 4, **changes}
    return runs.online_run(folder, name, rows=ROWS, updates=2, **settings)


def flat(rows: Any, name: str) -> Any:
    return np.concatenate(rows[name].to_pylist())


def test_the_columns_are_of_the_policy_as_the_step_begins_and_of_the_first(folder: Path) -> None:
    """Held against the decoder's own numbers, against the first checkpoint, and against a loop written here."""
    given = ppo(folder, "whole")
    execute(given)
    first = open_frozen(str(folder / "init"))
    places = sorted((given.run.paths.folder / "rollouts").glob("step=*-????????"))
    with engine.open(ppo(folder, "by hand").run) as trainer:
        assert [[*served(trainer, BOTH[:count])] for count in (0, 1)] == [[], ["old_logprobs"]], (
            "no model is read in vain"
        )
        for step, place in enumerate(places):
            rows = Dataset.open(str(place)).read()
            texts = [np.array(ids) for ids in rows["input_ids"].to_pylist()]
            drawn = flat(rows, "loss_mask") == 1
            old, ref = (flat(rows, name)[drawn] for name in BOTH)
            assert old == pytest.approx(flat(rows, "drawn_logprobs")[drawn], abs=1e-4)
            assert rows["ref_logprobs"].to_pylist() == first.logprobs(texts).to_pylist()
            assert rows["old_logprobs"].to_pylist() == trainer.token_model().logprobs(texts).to_pylist()
            assert (np.abs(old - ref).max() > 1e-3) == (step > 0), "the first step begins with the first policy"
            half = rows.num_rows // 2
            for part in (rows.slice(0, half), rows.slice(half)):
                trainer.learn(part)
        made = read_manifest(given.run.paths.out)
        assert made is not None and trainer.save().facts["weights_digest"] == made.facts["weights_digest"]
    assert len(places) == 2


def test_a_run_that_is_cut_off_goes_on_with_the_same_columns(folder: Path, tmp_path: Path) -> None:
    whole, cut = ppo(folder, str(tmp_path / "one")), ppo(folder, str(tmp_path / "two"), save_every=1)
    execute(whole)
    runs.cut_off(tmp_path, cut, 4)
    execute(cut)
    assert runs.outcome(whole)["rollouts"] == runs.outcome(cut)["rollouts"]
    assert runs.outcome(whole)["curve"] == runs.outcome(cut)["curve"]


@pytest.mark.parametrize(
    ("algorithm", "options", "columns"),
    [
        ("policy_gradient", {}, ()),
        ("policy_gradient", {"kl_coefficient": 0.1}, ("ref_logprobs",)),
        ("ppo", {}, ("old_logprobs",)),
        ("ppo", {"on_policy": True}, ()),
        ("gspo", {"kl_coefficient": 0.1}, BOTH),
        ("cispo", {}, ("old_logprobs",)),
        ("grpo", {}, ("old_logprobs",)),
        ("dapo", {}, ("old_logprobs",)),
        ("dr_grpo", {}, ("old_logprobs",)),
    ],
)
def test_a_recipe_makes_the_columns_that_its_algorithm_reads(
    algorithm: str, options: dict[str, Any], columns: tuple[str, ...], tmp_path: Path
) -> None:
    for kind in (Grpo, Reinforce):
        made = planned(kind, tmp_path, algorithm=algorithm, options=options).policy
        assert made.step.logprobs == columns
    if "old_logprobs" in columns:
        several = planned(Grpo, tmp_path, algorithm=algorithm, options=options, set=["global_batch_size=128"]).policy
        assert several.step.updates == 4


@pytest.mark.parametrize(("algorithm", "options"), [("policy_gradient", {}), ("ppo", {"on_policy": True})])
def test_a_formula_for_one_update_is_refused_several(
    algorithm: str, options: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"{algorithm} holds for one update") as caught:
        planned(Grpo, tmp_path, algorithm=algorithm, options=options, set=["global_batch_size=64"])
    assert caught.value.found == f"{algorithm}, 8 updates" and "--algorithm ppo" in caught.value.next
    with pytest.raises(ConfigError, match=f"{algorithm} holds for one update"):
        ppo(folder, "never", algorithm=algorithm, settings=options)


def test_an_algorithm_that_reads_no_advantages_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dpo does not learn from advantages") as caught:
        planned(Reinforce, tmp_path, algorithm="dpo")
    assert caught.value.next == "--algorithm policy_gradient"


def test_without_a_first_policy_there_is_nothing_to_refer_to(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"without run\.init there is no first policy"):
        runs.online_run(folder, "never", rows=ROWS, model=toys.MODEL, init=...)


def adapted(folder: Path, name: str, **changes: Any) -> OnlineRun:
    """As `ppo`, by adapters."""
    return ppo(folder, name, lora={"rank": 2, "alpha": 8.0}, **changes)


def test_with_adapters_the_first_policy_is_the_network_without_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No second network is read; what it says is what the first checkpoint says, however far the adapters have gone."""
    from trainers.engine.inference import frozen

    given = adapted(folder, str(tmp_path / "adapters"))

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a second network is read")

    with monkeypatch.context() as patched:
        patched.setattr(frozen, "open_frozen", never)
        execute(given)
    first, far = open_frozen(str(folder / "init")), []
    for place in sorted((given.run.paths.folder / "rollouts").glob("step=*-????????")):
        rows = Dataset.open(str(place)).read()
        texts = [np.array(ids) for ids in rows["input_ids"].to_pylist()]
        assert flat(rows, "ref_logprobs") == pytest.approx(np.concatenate(first.logprobs(texts).to_pylist()), abs=1e-6)
        far.append(np.abs(flat(rows, "old_logprobs") - flat(rows, "ref_logprobs")).max())
    assert far[0] == 0 and far[1] > 1e-3, "adapters begin with nothing, and have learnt by the second step"


def test_a_run_that_begins_with_adapters_reads_them_as_its_first_policy(folder: Path, tmp_path: Path) -> None:
    """Left out, they would be the network before all that was learnt already."""
    begun = adapted(folder, str(tmp_path / "begun"))
    execute(begun)
    given = adapted(folder, str(tmp_path / "more"), init=begun.run.paths.out)
    execute(given)
    first = open_frozen(begun.run.paths.out)
    place = max((given.run.paths.folder / "rollouts").glob("step=*-????????"))
    rows = Dataset.open(str(place)).read()
    texts = [np.array(ids) for ids in rows["input_ids"].to_pylist()]
    assert flat(rows, "ref_logprobs") == pytest.approx(np.concatenate(first.logprobs(texts).to_pylist()), abs=1e-6)
    with engine.open(given.run) as trainer, engine.open(ppo(folder, str(tmp_path / "whole")).run) as whole:
        assert trainer.first_model() is None and whole.first_model() is None
