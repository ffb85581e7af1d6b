"""What a place on the command line stands for where nothing lies: a result's name, a scheme of no backend."""

from __future__ import annotations

import shlex
from pathlib import Path

import luigi
import pytest
from luigi.task_register import Register

from pipelines.cli import invocation
from pipelines.graph.backend import model_at
from pipelines.graph.named_results import place_of_name
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import any_at, rows_at
from pipelines.runtime import command
from pipelines.setups import setup_of, setups
from pipelines.setups.setup_config import SetupConfig
from pipelines.stages.iteration import TaskSetup
from schemas import PROMPTS
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from schemas.manifest import MANIFEST, Manifest
from schemas.store.opening import no_such_file, only_match
from schemas.store.storage import normal

POLICY, ROWS = "data/dpo/mine/policy-0123abcd", "data/imported/rows-89ab0123"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A checkpoint, what lies beside it, and a dataset, below a root; and a folder of a model."""
    monkeypatch.chdir(tmp_path)
    for place in (POLICY, f"{POLICY}.run", f"{POLICY}.records"):
        Path(place).mkdir(parents=True)
    Path(POLICY, MANIFEST).write_bytes(Manifest(kind="checkpoint", task_key="0123abcd" * 8).to_bytes())
    Dataset.from_arrow(PROMPTS.example(2), PROMPTS, ROWS)
    Path("my-model").mkdir()
    return Plan(str(tmp_path / "data"))


def corrected(flag: str, place: str, error: ConfigError, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is given to `flag` in the command that `error` leads to."""
    monkeypatch.setattr(invocation, "_given", ["Generate", flag, place])
    words = shlex.split(command.next_command(error))
    return words[words.index(flag) + 1]


@pytest.mark.parametrize("word", ["dpo/mine/policy", "data/dpo/mine/policy", "./data/dpo/mine/policy"])
def test_a_model_by_its_name_is_the_one_in_its_folder(word: str, results: Plan) -> None:
    for node in (model_at(results, word, "generator"), any_at(results, word), results.existing(word, "checkpoint")):
        assert node.url == str(Path(POLICY).absolute())


@pytest.mark.parametrize("word", ["imported/rows", "data/imported/rows"])
def test_rows_by_their_name_are_those_in_their_folder(word: str, results: Plan) -> None:
    """A file of that name goes before it."""
    assert rows_at(results, word, "prompts").url == str(Path(ROWS).absolute())
    Path("imported").mkdir()
    Path("imported/rows").write_text('{"prompt": "one of a file"}\n')
    asked = rows_at(results, "imported/rows", "prompts")
    assert "-".join(asked.url.split("-")[:-1]).endswith("imported/rows") and asked.manifest() is None


def test_a_name_that_is_nearly_one_leads_to_it_and_a_file_to_the_near_file(
    results: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="nothing is called imported/rosw") as fault:
        rows_at(results, "imported/rosw", "prompts")
    assert corrected("--data", "imported/rosw", fault.value, monkeypatch) == "imported/rows"
    with pytest.raises(ConfigError, match="nothing is called dpo/mine/polcy") as model:
        model_at(results, "dpo/mine/polcy", "generator")
    assert corrected("--model", "dpo/mine/polcy", model.value, monkeypatch) == "dpo/mine/policy"
    with pytest.raises(ConfigError, match="dpo is a folder of 1 result; one is needed"):
        rows_at(results, "dpo", "prompts")
    Path("questions.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="there is no file") as other:
        rows_at(results, "question.jsonl", "prompts")
    assert corrected("--data", "question.jsonl", other.value, monkeypatch) == "questions.jsonl"


def test_a_name_of_another_kind_is_no_answer(results: Plan) -> None:
    with pytest.raises(ConfigError) as fault:
        model_at(results, "imported/rows", "generator")
    assert fault.value.matches == () and not place_of_name(results.root, "imported/rows", "checkpoint")
    assert not place_of_name(results.root, "my-model", "checkpoint", "dataset"), "something lies there"


@pytest.mark.parametrize("scheme", ["mlx", "hf", "s3"])
def test_a_scheme_of_no_backend_leads_to_the_folder_behind_it(
    scheme: str, results: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=f"no backend has references that begin with {scheme}:") as fault:
        model_at(results, f"{scheme}:./my-model", "generator")
    assert "a checkpoint folder" in fault.value.expected
    assert corrected("--model", f"{scheme}:./my-model", fault.value, monkeypatch) == "./my-model"


@pytest.mark.parametrize("place", ["s3:bucket/rows", "memory:rows", "S3:x"])
def test_a_place_without_slashes_behind_its_scheme_is_refused(place: str) -> None:
    with pytest.raises(ConfigError, match="begins with") as fault:
        normal(place)
    assert fault.value.slug == "url"


def test_what_lies_beside_a_checkpoint_is_no_match_of_its_own(results: Plan) -> None:
    assert only_match("data/dpo/mine/policy-*") == POLICY
    assert only_match("data/dpo/mine/policy-*.run") == f"{POLICY}.run"


def test_a_file_of_another_folder_is_not_put_into_one_that_is_not_there(results: Plan) -> None:
    Path("questions.jsonl").write_text("{}\n")
    assert no_such_file("data/questions").nearest == "" and no_such_file("question.jsonl").nearest == "questions.jsonl"
    assert no_such_file("elsewhere/questions").nearest == ""


def test_a_setup_of_a_module_of_ones_own_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Register, "_reg", [*Register._reg])

    class mine(SetupConfig):
        """One that no file of the project defines."""

        word = luigi.Parameter(default="so")

        def task_setup(self, *given: object, **more: object) -> TaskSetup:
            raise NotImplementedError

    assert setups()["mine"] is mine and isinstance(setup_of("mine", {}), mine)
    assert {"digits", "own", "preferences"} <= {*setups()} and "SetupConfig" not in setups()
