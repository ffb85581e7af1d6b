"""docs/matrix.md names every method and family that there is today, and shows none that failed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines import recipes
from pipelines.commands.one_shot import OneShot
from pipelines.graph.plan import Plan
from tests.matrix.families import SETTINGS, TITLES, shapes
from tests.matrix.methods import RECIPES, methods
from tests.matrix.page import faults, page, shown, summary, with_summary
from tests.pipelines import judges, small_model
from trainers import registry
from trainers.engine.weights.registry import FAMILIES

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "matrix.md"
GOOD = {"code": 0, "losses": [3.0, 2.0, 1.0], "changed": 4, "tensors": 4}
CUT = {"codes": [0, 0], "losses": [3.0, 2.000001, 1.0]}
RESUMED = {"codes": [-9, 0], "losses": [3.0, 2.0, 1.0]}


def test_the_page_names_every_method_and_family_of_today() -> None:
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if "| " in line]
    header, *body = rows
    assert header == ["method", *TITLES.values()], "stale: run `make test-matrix`"
    assert [row[0] for row in body] == [method.title for method in methods().values()], "stale: run `make test-matrix`"
    assert not [row for row in body if len(row) != len(header) or not set(row[1:]) <= {"●", "○"}]


def test_the_readme_has_the_table_of_that_page() -> None:
    readme, whole = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/matrix.md"))
    assert with_summary(readme, whole) == readme, "stale: run `make test-matrix`"
    named = {name for row in summary(whole).splitlines()[2:] for name in row.split(" | ")[0].strip("| ").split(", ")}
    assert named == {method.title for method in methods().values()}


def test_methods_that_did_the_same_share_a_line() -> None:
    whole = "# Page\n\n| method | A | B |\n|---|---|---|\n| one | ● | ○ |\n| two | ● | fails |\n| three | ● | ○ |\n"
    table = "| method | A | B |\n|---|---|---|\n| one, three | ● | ○ |\n| two | ● | fails |\n"
    assert summary(whole) == table
    readme = "above\n\n<!-- matrix -->\n\n| stale |\n|---|\n\nbelow | not a table\n"
    assert with_summary(readme, whole) == f"above\n\n<!-- matrix -->\n\n{table}\nbelow | not a table\n"


def test_methods_and_families_are_those_of_the_registries() -> None:
    assert methods().keys() - RECIPES.keys() == {*registry.algorithms(), *registry.presets()}
    assert not [name for name in RECIPES if not hasattr(recipes, name)]
    assert {family for _, family, _ in SETTINGS.values()} == set(FAMILIES)


@pytest.mark.parametrize("name", RECIPES)
def test_rows_of_a_recipe_are_made_by_its_own_operations(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(judges.__file__).parent))
    small_model.write(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"prompt": f"{n}", "response": "a"}) + "\n" for n in "12"))
    kind, row = getattr(recipes, name), RECIPES[name]
    given = {"model": "model", "data": "rows.jsonl", "reward": "judges:letters", "max_new_tokens": 6}
    results = kind(**(given if issubclass(kind, OneShot) else {})).results(Plan(str(tmp_path / "out")))
    done = {node.work.get("name") for target in results.targets for node in target.ancestors()}
    assert {op.name for op in row.ops} <= done
    assert f"train.{registry.spelled_out(row.algorithm, {})[0]}" in done


def test_networks_are_what_their_families_say() -> None:
    networks = shapes()
    assert [*networks] == [*TITLES] and len(set(networks.values())) == len(networks)
    assert not [name for name, (_, family, _) in SETTINGS.items() if FAMILIES[family].faults(networks[name])]


def test_what_a_cell_shows() -> None:
    whole = {**GOOD, "tensor": CUT, "resumed": RESUMED}
    assert [shown(cell) for cell in (None, GOOD, whole, {**GOOD, "code": 1})] == ["not run", "○", "●", "fails"]
    assert "| fails |" in page({"sft": {"llama3": {**GOOD, "code": 1}}}) and "| ○ |" in page({"sft": {"llama3": GOOD}})


@pytest.mark.parametrize(
    "change",
    [
        {"code": 20},
        {"losses": [3.0, 2.0]},
        {"losses": [3.0, float("nan"), 1.0]},
        {"losses": [2.0, 2.0, 1.0]},
        {"losses": [1.0, 3.0, 2.0]},
        {"changed": 3},
        {"tensor": {**CUT, "losses": [3.0, 2.0001, 1.0]}},
        {"tensor": {**CUT, "codes": [0, 14]}},
        {"resumed": {**RESUMED, "losses": [3.0, 2.000001, 1.0]}},
        {"resumed": {**RESUMED, "codes": [0, 0]}},
        {"resumed": {**RESUMED, "losses": [3.0, 2.0]}},
    ],
)
def test_what_counts_as_a_failure(change: dict[str, object]) -> None:
    assert not list(faults({**GOOD, "tensor": CUT, "resumed": RESUMED}))
    assert len(list(faults({**GOOD, "tensor": CUT, "resumed": RESUMED, **change}))) >= 1
