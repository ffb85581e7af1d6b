"""Rollouts that need not stay go; a run that is cut off anywhere is the run that was not, with the same ones left."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datakit.sql import connect
from pipelines.online import config, kept_rollouts
from pipelines.online.__main__ import execute
from pipelines.online.config import OnlineRun
from pipelines.online.kept_rollouts import KeepRollouts, drop
from pipelines.recipes import Grpo, OnlineDpo, OnlineRejectionSampling, Ppo, Reinforce, ReinforcePp
from quiver import console
from schemas.dataset import Dataset
from schemas.errors import ConfigError, HealthError, IntegrityError
from schemas.run_layout import DROPPED
from tests.pipelines import judges
from tests.pipelines.online import runs
from tests.pipelines.online.test_lagged import lagged
from tests.pipelines.online.test_recipe import planned
from tests.tail import late
from tests.trainers import online

TWO = KeepRollouts(last=2)
STAYS: list[tuple[KeepRollouts, list[int]]] = [
    (KeepRollouts(), [-1, 0, 1, 2, 3, 4, 5, 6, 7]),
    (KeepRollouts(last=2), [6, 7]),
    (KeepRollouts(every=3), [3, 6]),
    (KeepRollouts(last=1, every=2), [2, 4, 6, 7]),
    (KeepRollouts(last=8), [0, 1, 2, 3, 4, 5, 6, 7]),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("keeping")
    online.init(place)
    runs.prompts(place)
    sys.modules.setdefault("judges", judges)
    return place


def keeping(folder: Path, name: str, keep: KeepRollouts = TWO, **changes: Any) -> OnlineRun:
    return replace(runs.online_run(folder, name, **changes), keep_rollouts=keep)


def there(given: OnlineRun) -> set[str]:
    """Datasets of rollouts whose rows are there, without their keys; of those that went nothing but a manifest is."""
    places = [*(given.run.paths.folder / "rollouts").iterdir()]
    for place in places:
        if not Dataset.exists(str(place)):
            assert [one.name for one in place.iterdir()] == [DROPPED] or not (place / DROPPED).exists()
        else:
            assert Dataset.open(str(place)).read().num_rows and not (place / DROPPED).exists()
    return {one.name.partition("-")[0] + one.suffix for one in places if Dataset.exists(str(one))}


def of_steps(*steps: int) -> set[str]:
    return {f"step={step:06d}{part}" for step in steps for part in ("", ".prompts", ".answers")}


@pytest.mark.parametrize(("keep", "steps"), STAYS)
def test_which_steps_stay(keep: KeepRollouts, steps: list[int]) -> None:
    """Of seven, and two rounds of a warm-up before."""
    assert [step for step in range(-1, 8) if keep.stays(step, 7)] == steps


@pytest.mark.parametrize("keep", [KeepRollouts(last=1, every=3), late(TWO), late(KeepRollouts(every=2))])
def test_a_run_learns_the_same_whatever_stays(keep: KeepRollouts, folder: Path, tmp_path: Path) -> None:
    whole = runs.online_run(folder, "all stays")
    if not (folder / "all stays").exists():
        execute(whole)
    given = keeping(folder, str(tmp_path / "some"), keep)
    execute(given)
    assert runs.outcome(given) == runs.outcome(whole), "curve, weights, and what manifests say of all rollouts"
    assert there(given) == of_steps(*(step for step in range(1, 6) if keep.stays(step, 5)))
    assert there(whole) == of_steps(1, 2, 3, 4, 5)


@pytest.mark.parametrize(("call", "when"), [(8, "after"), late(9, "before"), late(5, "before"), late(10, "after")])
def test_nothing_that_a_save_needs_goes_and_nothing_is_drawn_twice(
    call: int, when: str, folder: Path, tmp_path: Path
) -> None:
    """Two saves stay, of every second step: what the older of them goes on with is there when the newer is damaged."""
    given, whole = (keeping(folder, str(tmp_path / name), KeepRollouts(last=1)) for name in ("cut", "whole"))
    execute(whole)
    runs.cut_off(tmp_path, given, call, when)
    begun = runs.draws(tmp_path)
    saves = sorted((given.run.paths.folder / "saves").glob("step-*"))
    oldest = int(saves[0].name[5:])
    kept = {name for name in there(given) if name.endswith(".answers")}
    assert {f"step={step:06d}.answers" for step in range(oldest + 1, (call - 1) // 2 + 1)} <= kept
    assert not kept & {f"step={step:06d}.answers" for step in range(1, oldest)}
    again = runs.finished(tmp_path, given)
    stored = begun if when == "before" else begun[: -4 if call % 2 else -2]
    assert not {*stored} & {*again}
    assert runs.outcome(given) == runs.outcome(whole) and there(given) == there(whole) == of_steps(5)


@pytest.mark.slow
def test_the_older_of_two_saves_is_gone_on_from_without_a_draw_of_before(folder: Path, tmp_path: Path) -> None:
    given, whole = (keeping(folder, str(tmp_path / name), KeepRollouts(last=1)) for name in ("cut", "whole"))
    execute(whole)
    runs.cut_off(tmp_path, given, 10)
    runs.draws(tmp_path)
    newest = max((given.run.paths.folder / "saves").glob("step-*"))
    next(newest.glob("weights/*.distcp")).write_bytes(b"")
    again = runs.finished(tmp_path, given)
    assert len(again) == 2 and runs.outcome(given) == runs.outcome(whole), "the last chunk of step 5 alone is drawn"


@pytest.mark.parametrize("at", ["rows", late("rename"), late("other half")])
def test_a_kill_while_rollouts_go_leaves_no_half_of_one(
    at: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, whole = (keeping(folder, str(tmp_path / name), KeepRollouts(last=1)) for name in ("cut", "whole"))
    execute(whole)
    path, unlink, count = Path.replace, Path.unlink, iter(range(1, 99))

    def dying(self: Path, *arguments: Any, **named: Any) -> Any:
        if at == "rename" and self.name == "_manifest.json":
            raise online.Killed
        if at != "rename" and self.suffix == ".parquet" and next(count) == (1 if at == "rows" else 3):
            raise online.Killed
        return (path if self.name == "_manifest.json" else unlink)(self, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace" if at == "rename" else "unlink", dying)
        with pytest.raises(online.Killed):
            execute(given)
    execute(given)
    assert runs.outcome(given) == runs.outcome(whole) and there(given) == there(whole)


def test_a_kill_behind_the_checkpoint_is_made_good_by_the_next_start(folder: Path, tmp_path: Path) -> None:
    given = keeping(folder, str(tmp_path / "all"), KeepRollouts())
    given = replace(given, run=replace(given.run, paths=replace(given.run.paths, task_key="1" * 64)))
    execute(given)
    execute(replace(given, keep_rollouts=TWO))
    assert there(given) == of_steps(4, 5)


def test_what_is_needed_again_after_all_is_drawn_again(folder: Path, tmp_path: Path) -> None:
    """All saves are lost: the run begins anew, and what it drew once stands no longer as dropped."""
    given = keeping(folder, str(tmp_path / "lost"), KeepRollouts(last=1))
    runs.cut_off(tmp_path, given, 10)
    assert of_steps(1) - there(given) == of_steps(1)
    shutil.rmtree(given.run.paths.folder / "saves")
    execute(given)
    whole = keeping(folder, str(tmp_path / "whole"), KeepRollouts(last=1))
    execute(whole)
    assert runs.outcome(given) == runs.outcome(whole) and there(given) == of_steps(5)


@pytest.mark.parametrize("made", [late("critic"), late("lagged"), late("updates")])
def test_warmups_and_steps_of_several_updates_go_too(made: str, folder: Path, tmp_path: Path) -> None:
    def given(name: str, keep: KeepRollouts) -> OnlineRun:
        kinds: dict[str, Any] = {
            "critic": lambda: runs.critic_run(folder, name),
            "lagged": lambda: lagged(folder, name, max_steps=6),
            "updates": lambda: runs.critic_run(folder, name, updates=2, save_every=3),
        }
        return replace(kinds[made](), keep_rollouts=keep)

    whole, cut = given(str(tmp_path / "whole"), KeepRollouts()), given(str(tmp_path / "cut"), KeepRollouts(last=1))
    execute(whole)
    runs.cut_off(tmp_path, cut, 13 if made == "critic" else 11)
    execute(cut)
    assert runs.outcome(cut) == runs.outcome(whole)
    assert there(cut) == of_steps(6 if made == "lagged" else 5)


@pytest.mark.slow
def test_the_highest_reward_is_known_of_steps_that_are_gone(folder: Path, tmp_path: Path) -> None:
    """A bound breaks at the same step in a run that goes on behind the highest reward, whose rows are no longer."""
    bound, least = {"max_reward_drop": 0.0}, KeepRollouts(last=1)
    free = runs.online_run(folder, str(tmp_path / "free"), max_steps=8, save_every=1)
    execute(free)
    rewards = [line["reward"] for line in runs.outcome(free)["curve"]]
    drops = [max(rewards[:at]) - rewards[at] for at in range(1, 8)]
    at = max(range(7), key=lambda step: drops[step]) + 1
    highest = rewards.index(max(rewards[:at]))
    given = keeping(folder, str(tmp_path / "cut"), least, max_steps=8, save_every=1, keep_last=1)
    runs.cut_off(tmp_path, given, 2 * at + 1)
    assert at > highest + 1 and f"step={highest + 1:06d}" not in there(given)
    limit = {"max_reward_drop": drops[at - 1] - 1e-9}
    with pytest.raises(HealthError, match=f"reward of the answers of step {at + 1} is") as caught:
        execute(replace(given, guards=type(given.guards)(**{**bound, **limit})))
    assert f"below {max(rewards[:at]):.4g}" in caught.value.expected


def test_views_and_why_say_what_is_gone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder / "work"
    (root / "grpo").mkdir(parents=True, exist_ok=True)
    online.init(root)
    runs.prompts(root)
    given = keeping(root, "grpo/policy-0123abcd", KeepRollouts(last=1, every=2))
    records = str(root / "grpo" / "policy-0123abcd.records")
    paths = replace(given.run.paths, records=records, task_key="0123abcd" * 8)
    given = replace(given, run=replace(given.run, paths=paths))
    execute(given)
    with connect(str(root)) as db:
        seen = db.sql("SELECT stage, step, gone, rows, bytes > 0, reward FROM rollouts ORDER BY ALL").fetchall()
        drawn = db.sql("SELECT DISTINCT step FROM samples WHERE stage = 'answers' ORDER BY 1").fetchall()
    places = [next((given.run.paths.folder / "rollouts").glob(f"step=00000{step}*answers")) for step in (1, 2)]
    manifests = [kept_rollouts.manifest_of(str(place)) for place in places]
    means = [one.stats["columns"]["reward"]["mean"] for one in manifests if one is not None]
    assert [row for row in seen if row[0] == "answers"][:2] == [
        ("answers", 1, True, 12, False, means[0]),
        ("answers", 2, False, 12, True, means[1]),
    ]
    assert {(step, gone) for _, step, gone, *_ in seen} == {(1, True), (2, False), (3, True), (4, False), (5, False)}
    assert drawn == [(2,), (4,), (5,)], "views over rows show those that are there"
    console.run(["why", "grpo/policy", "--root", str(root)])
    assert "in steps 1 and 3 is gone (keep_rollouts)" in " ".join(capsys.readouterr().out.split())
    console.run(["why", "grpo/policy", "--root", str(root), "--json"])
    assert json.loads(capsys.readouterr().out)["steps_gone"] == [1, 3]
    with connect(str(root)) as db:
        learnt = db.sql("SELECT min(sample_id) FROM records GROUP BY step ORDER BY step").fetchall()
    console.run(["why", learnt[0][0], "--root", str(root)])
    assert "where step 1 is gone (keep_rollouts)" in " ".join(capsys.readouterr().out.split())
    console.run(["why", learnt[1][0], "--root", str(root), "--json"])
    trained = [one for one in json.loads(capsys.readouterr().out)["events"] if one["kind"] == "trained"]
    assert [one["steps_gone"] for one in trained] == [[]]
    with pytest.raises(IntegrityError) as caught:
        Dataset.open(str(next((given.run.paths.folder / "rollouts").glob("step=000001-????????"))))
    assert "dropped (keep_rollouts)" in caught.value.found and caught.value.next.startswith("quiver sql")


@pytest.mark.parametrize("kind", [Grpo, Reinforce, ReinforcePp, Ppo, OnlineDpo, OnlineRejectionSampling])
def test_every_online_recipe_takes_it_and_its_key_is_what_it_was(kind: Any, tmp_path: Path) -> None:
    plain, some = (planned(kind, tmp_path, **given).policy for given in ({}, {"keep_rollouts": {"last": 3}}))
    assert some.keep_rollouts == KeepRollouts(last=3) and plain.keep_rollouts == KeepRollouts()
    assert plain.task_key == some.task_key


def test_a_configuration_holds_it_and_bad_ones_are_refused(folder: Path, tmp_path: Path) -> None:
    given = keeping(folder, "never", KeepRollouts(last=3, every=10))
    config.write(tmp_path / "config.json", given)
    assert config.read(str(tmp_path / "config.json")) == given
    for wrong in ({"last": 0}, {"every": -1}, {"first": 3}):
        with pytest.raises(ConfigError, match=r"keep_rollouts|keep-rollouts"):
            planned(Grpo, tmp_path, keep_rollouts=wrong)


def test_what_is_no_rollout_of_a_step_stays(tmp_path: Path) -> None:
    """Answers to held-out prompts, attempts of others, and files that somebody put there."""
    rollouts = tmp_path / "rollouts"
    for name in ("validation=000002-01234567", "step=000001-01234567.old", "_attempt-0123456789abcdef", "step=1"):
        (rollouts / name).mkdir(parents=True)
        (rollouts / name / "_manifest.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    drop(tmp_path, KeepRollouts(last=1), made=9, needed=10, warmup=0)
    assert sorted(tmp_path.rglob("*")) == before
