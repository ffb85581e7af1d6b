"""docs/results.md is made of what was measured, and measuring goes on where it ended."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from quiver import inventory
from tests.benchmarks import _sides
from tests.results import costs, page, runner
from tests.results.entries import ORDER, Entry, Figure, Ground, grounds

PAGE = runner.ROOT / "docs" / "results.md"
METHODS = {name: entry for ground in grounds() for name, entry in ground.methods.items()}


def test_the_page_is_fresh() -> None:
    records = json.loads(page.MEASURED.read_text(encoding="utf-8"))
    assert PAGE.read_text(encoding="utf-8") == page.page(records, page.kept()), "stale: run `make results`"
    assert {record["method"] for record in records} <= METHODS.keys()


def test_every_file_of_methods_is_read_and_every_name_is_one_method() -> None:
    assert sorted(path.stem for path in Path(page.__file__).parent.glob("*.yaml")) == sorted(ORDER)
    assert len(METHODS) == sum(len(entry.methods) for ground in grounds() for entry in ground.entries)
    assert not [
        name for name, entry in METHODS.items() if "NAME" in "".join((entry.command, *entry.before, *entry.after))
    ]


def test_commands_name_recipes_and_stages_that_there_are() -> None:
    known = {name for name, _, _ in (*inventory.recipes(), *inventory.stages())}
    texts = [text for ground in grounds() for text in ground.shared]
    texts += [text for entry in METHODS.values() for text in (*entry.before, entry.command, *entry.after)]
    used = set(re.findall(r"^ *quiver (\w+)", "\n".join(texts), re.MULTILINE))
    assert used <= known and len(used) > 10, used - known


def record(seed: int, **figures: float) -> dict[str, Any]:
    return {"method": "toy", "seed": seed, "commit": "abc", "seconds": {"command": 2.0 * seed}, "figures": figures}


def test_a_cell_is_mean_spread_and_every_seed() -> None:
    figure = Figure(name="share", sql="SELECT 1")
    # of 0.5, 0.6 and 0.7 the mean is 0.6; squares of distances sum to 0.02, over two: the root of 0.01
    several = [record(1, share=0.5), record(2, share=0.7), record(3, share=0.6)]
    assert page.cell(figure, several) == "60.0% ± 10.0% (50.0%, 70.0%, 60.0%)"
    assert page.cell(figure, several[:1]) == "50.0%" and page.cell(figure, []) == page.MISSING


def test_what_is_not_measured_is_reported() -> None:
    entry = Entry(
        methods={"toy": "a toy"}, command="true", against="nothing", figures=(Figure(name="share", sql="SELECT 1"),)
    )
    assert page.table({"toy": entry}, {})[-1] == "| a toy | not measured yet | nothing | none | not measured yet |"
    assert page.table({"toy": entry}, {"toy": [record(1, share=0.5), record(3, share=0.5)]})[-1] == (
        "| a toy | 50.0% ± 0.0% (50.0%, 50.0%) | nothing | 1, 3 | 4 |"
    )


def test_the_newest_record_of_a_method_and_seed_stays(tmp_path: Path) -> None:
    (tmp_path / "abc").mkdir()
    (tmp_path / "abc" / "toy-2.json").write_text(json.dumps(record(2, share=0.9)))
    known = [record(1, share=0.1), record(2, share=0.2)]
    assert [one["figures"]["share"] for one in page.collected(known, tmp_path)] == [0.1, 0.9]


def test_costs_are_ratios_of_one_round(tmp_path: Path) -> None:
    """6 over 2 and 5 over 4: the median of 3 and 1.25; medians of seconds would give 5.5 over 3."""
    sides = {"quiver": iter((2.0, 4.0)), "trl": iter((6.0, 5.0))}
    order: list[str] = []

    def measure(side: str) -> dict[str, float]:
        order.append(side)
        return {"seconds": next(sides[side]), "MiB": 1000.0}

    taken = _sides.in_turns(2, tuple(sides), measure)
    assert order == ["quiver", "trl", "trl", "quiver"]
    for _ in range(2):
        _sides.keep(tmp_path / "costs.json", "toys", "a case", taken, ["--rounds", "2", "--keep", "costs.json"])
    (record,) = json.loads((tmp_path / "costs.json").read_text())
    table = [line for line in costs.section([record]) if line.startswith("| a case")]
    assert table == [
        "| a case | Quiver | 3.0 (2.0, 4.0) |  | 1,000 |  |",
        "| a case | TRL | 5.5 (6.0, 5.0) | 2.12 (3.00, 1.25) | 1,000 |  |",
    ]
    assert 'make bench ARGS="toys --rounds 2 --keep tests/results/costs.json"' in costs.section([record])
    assert costs.section([]) == []


@pytest.fixture
def ground() -> Ground:
    """Two rows are imported by a real command; the other commands leave traces of how often they ran."""
    entry = Entry(
        methods={"toy": "a toy", "other": "another"},
        before=("echo x >> before",),
        command="quiver Import --name rows/NAME --files rows.jsonl --format completions",
        figures=(Figure(name="rows", sql="SELECT count(*) FROM 'quiver-data/rows/NAME-????????/*.parquet'"),),
        against="nothing",
    )
    shared = """for n in 1 2; do echo '{"prompt": "Say '$n'", "response": "'$n'"}'; done > rows.jsonl"""
    return Ground(name="toys", title="Toys", about="Two rows.", shared=(shared,), entries=(entry,))


def test_measuring_goes_on_where_it_ended(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "BUILD", tmp_path)
    monkeypatch.setattr(runner, "commit", lambda: "abc")
    monkeypatch.setattr(runner, "grounds", lambda: (ground,))
    assert runner.main(["--seeds", "5", "toy"]) == 0
    (path,) = (tmp_path / "abc").glob("*.json")
    first = json.loads(path.read_text())
    assert first["figures"] == {"rows": 2.0} and first["seconds"]["command"] > 0 and first["seed"] == 5
    folder = tmp_path / "abc" / "toys" / "seed=5"
    assert "seed = 5" in (folder / "luigi.cfg").read_text()
    assert runner.main(["--seeds", "5", "toy"]) == 0 and json.loads(path.read_text()) == first
    assert (folder / "before").read_text() == "x\n", "what is measured is measured again"
    (folder / "rows.jsonl").unlink()
    broken = ground.entries[0].of("other")
    monkeypatch.setattr(
        runner, "grounds", lambda: (Ground(**{**vars(ground), "entries": (broken,), "shared": ("exit 3",)}),)
    )
    assert runner.main(["--seeds", "5"]) == 1 and "ended with 3" in capsys.readouterr().err
    assert sorted(one.name for one in (tmp_path / "abc").glob("*.json")) == ["toy-5.json"]


def test_what_measuring_writes_does_not_make_another_commit(tmp_path: Path) -> None:
    """Else the next call would begin anew in another folder."""
    for name in ("docs/results.md", "tests/results/measured.json", "code.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for words in (("init", "-q"), ("add", "-A"), (*who, "commit", "-qm", "first")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    clean = runner.commit(tmp_path)
    for name in ("docs/results.md", "tests/results/measured.json"):
        (tmp_path / name).write_text("measured")
    assert runner.commit(tmp_path) == clean
    (tmp_path / "code.py").write_text("changed")
    assert runner.commit(tmp_path) == f"{clean}+"
