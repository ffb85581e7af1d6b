"""Cards of what leaves a workspace: what they say, and that nothing of it is markup."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from datakit.formats.exports import write
from schemas import COMPLETIONS, Column, Dataset, Schema
from schemas.card import dataset_card, model_card, plain
from schemas.manifest import MANIFEST, Manifest, Parent

HOSTILE = [
    "<script>alert(1)</script>",
    "[link](javascript:alert(1)) ![x](http://127.0.0.1/x)",
    "| a | b |\n|---|---|\n# heading",
    "`code` *bold* _it_ ~~x~~ &lt; $x$ http://a.example @me",
    "\x1b[31m\u202e",
    "x" * 100_000,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_is_one_line_without_markup(text: str) -> None:
    shown = plain(text)
    assert "\n" not in shown and "<" not in shown and "\x1b" not in shown and "\u202e" not in shown
    assert not re.search(r"(?<!\\)[`*_\[\]()#|!~>$:@]", shown), shown
    assert len(shown) < 1000


def test_a_dataset_card_has_columns_settings_and_lineage(tmp_path: Path) -> None:
    rows = COMPLETIONS.example(3)
    first = Dataset.from_arrow(rows, COMPLETIONS, str(tmp_path / "first-00000001"))
    made = {"name": "filter.threshold", "version": 1, "params": {"minimum": 0.5, "note": HOSTILE[0], "empty": ""}}
    second = Dataset.from_arrow(
        rows.slice(0, 2), COMPLETIONS, str(tmp_path / "second-00000002"), op=made, parents={"0": first}
    )
    write.export(second, "trl", str(tmp_path / "out" / "rows.jsonl"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["rows.jsonl", "rows.jsonl.card.md"]
    text = (tmp_path / "out" / "rows.jsonl.card.md").read_text()
    assert text.startswith('---\npretty_name: "rows.jsonl"\n---\n\n# rows\\.jsonl\n\n2 rows of completions that Quiver')
    assert "| minimum | 0\\.5 |" in text and "empty" not in text and "<script" not in text
    lines = text[text.index("## Lineage") :].splitlines()
    digests = [one.manifest.content_digest[:12] for one in (second, first)]
    assert lines[-2:] == [
        f"- filter\\.threshold: second\\-00000002, 2 rows ({digests[0]})",
        f"  - notebook\\.rows: first\\-00000001, 3 rows ({digests[1]})",
    ]
    assert str(tmp_path) not in text, "no place of this machine"


def test_a_model_card_has_the_training_and_what_is_gone(tmp_path: Path) -> None:
    trained = Manifest(
        kind="checkpoint",
        op={"name": "train.sft", "version": 1, "params": {"epochs": 2, "optim": {"lr": 0.1}}},
        parents=(Parent("data", str(tmp_path / "gone-00000003"), "ab" * 32),),
        seed=7,
        facts={"stats": {"loss": 0.25, "steps": 3, "note": "x"}},
    )
    (tmp_path / "policy-1").mkdir()
    (tmp_path / "policy-1" / "_manifest.json").write_bytes(trained.to_bytes())
    export = Manifest(
        kind="export",
        op={"name": "export", "version": 2, "params": {}},
        parents=(Parent("checkpoint", str(tmp_path / "policy-1"), trained.content_digest),),
    )
    text = model_card("folder", export, str(tmp_path / "folder"), {"library_name": "transformers"})
    assert text.startswith('---\nlibrary_name: "transformers"\n---\n\n# folder\n')
    assert (
        "Operation train\\.sft, seed 7." in text
        and "| epochs | 2 |" in text
        and '| optim | \\{"lr"\\: 0\\.1\\} |' in text
    )
    assert "| loss | 0.25 |" in text and "| steps | 3 |" in text
    assert f"  - checkpoint: train\\.sft: policy\\-1, 0 B ({trained.content_digest[:12]})" in text
    assert "    - data: gone\\-00000003 \\(gone\\) (abababababab)" in text


def test_a_column_says_what_it_is() -> None:
    schema = Schema("own", 1, (Column("n", pa.int64(), "a | b"),), ("n",))
    assert "| n | int64 | a \\| b |" in dataset_card("x", 1, schema, Manifest(schema=schema), "x", {})


@pytest.mark.parametrize("junk", [None, 3, "x", [1], [{}], {"a": 1}, {"a": {"mean": "x", "std": 1, "count": 1}}, True])
def test_what_a_manifest_says_may_be_anything(junk: object, tmp_path: Path) -> None:
    """Cards are made of checkpoints of others too; the export is done by then, and must not fail."""
    facts = {"stats": junk, "reward_scale": junk}
    op = {"name": "train.sft", "version": 1, "params": junk}
    checkpoint = Manifest(kind="checkpoint", op=op, facts=facts, task_key="1" * 64)
    (tmp_path / MANIFEST).write_bytes(checkpoint.to_bytes())
    parent = Parent("checkpoint", str(tmp_path), checkpoint.content_digest, checkpoint.task_key)
    exported = Manifest(kind="checkpoint", op=op, parents=(parent,), facts=facts, task_key="2" * 64)
    text = model_card("exported", exported, str(tmp_path / "out"), {})
    assert "## Training" in text and "Operation train\\.sft, seed" in text and "## Rewards" not in text
