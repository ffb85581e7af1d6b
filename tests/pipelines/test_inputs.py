"""What a person names as input, through the real command: home folders, lists of files, settings, tokenizers."""

from __future__ import annotations

from pathlib import Path

from commands import luigi

from pipelines.graph.backend import model_at
from pipelines.graph.external import ImportedModel
from pipelines.graph.plan import Plan
from schemas.dataset import Dataset
from schemas.manifest import Manifest

ROWS = '{"prompt": "a", "response": "b"}\n'


def test_names_lists_and_settings_are_read_as_a_person_means_them(tmp_path: Path, shared_data: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/more.jsonl").write_text(ROWS.replace("a", "c"))
    (tmp_path / "rows.jsonl").write_text(ROWS)
    (tmp_path / "luigi.cfg").write_text("[quiver]\nroot = ~/made\n")
    home = {"HOME": str(tmp_path / "home")}
    files = ("Import", "--files", " rows.jsonl , ~/more.jsonl,")

    wrong = luigi(tmp_path, *files, "--params", '{"columns": {"response": ["a"]}}', module="pipelines", **home)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith('error[2/bad-setting]: columns.response: ["a"] is not text\n')

    unknown = luigi(tmp_path, *files, "--params", '{"max_rejected": 1}', module="pipelines", **home)
    assert unknown.returncode == 2
    assert "unknown key max_rejected: it is set by --quiver-max-rejected, or in section [quiver]" in unknown.stderr
    assert unknown.stderr.endswith("Import --files ' rows.jsonl , ~/more.jsonl,' --quiver-max-rejected 1\n")

    done = luigi(tmp_path, *files, module="pipelines", **home)
    assert done.returncode == 0, done.stderr
    place = Path(done.stdout.split()[-1])
    assert place.is_relative_to(tmp_path / "home/made/import") and not (tmp_path / "~").exists()
    assert sorted(m[0]["content"] for m in Dataset.open(str(place)).read()["messages"].to_pylist()) == ["a", "c"]

    adopt = ("Tokenize", "--op", "adopt", "--params", f'{{"path": "{shared_data}/tokenizer-oasst-tiny"}}')
    taken = luigi(tmp_path, *adopt, module="pipelines", **home)
    assert taken.returncode == 0, taken.stderr
    assert Dataset.open(taken.stdout.split()[-1]).schema.name == "vocabularies"

    nothing = luigi(tmp_path, "Tokenize", "--op", "mask", module="pipelines", **home)
    assert nothing.returncode == 2
    assert nothing.stderr.startswith("error[2/missing-input]: tokenize.mask reads rows; no --data was given")


def test_a_folder_that_was_exported_here_is_a_hugging_face_folder_like_any_other(tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "_manifest.json").write_bytes(Manifest(kind="export").to_bytes())
    node = model_at(Plan(str(tmp_path / "root")), str(folder))
    assert isinstance(node, ImportedModel) and node.folder == str(folder)
