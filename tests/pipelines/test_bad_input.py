"""What goes wrong for users, through the real command: its exit code, its first line, and that nothing was lost.

Every fault is one entry of `FAULTS`: what spoils a sound folder, the command, the error's first line, and mostly the
command that succeeds once the fault is mended or allowed. Inputs and finished stages must stay what they were.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import damaged, leftovers, luigi
from spoiling import (
    FILTER,
    IMPORT,
    LINES,
    Fault,
    config,
    doubled,
    file,
    flipped,
    halved,
    lines,
    prompts,
    refusing,
    row,
    zipped,
)

from tests.tail import late

FAULTS = {
    "broken json": row("3, byte 10", "broken-json", '{"prompt": '),
    "missing key": row("3", "missing-key", '{"prompt": "q", "response": "a"}'),
    "wrong type": row("3", "wrong-type", '{"prompt": "q", "response": "a", "reward": "high"}'),
    "bad utf-8": row("3, byte 12", "bad-text", b'{"prompt": "\xff", "response": "a", "reward": 1}'),
    "key twice": row("3", "duplicate-key", '{"prompt": "q", "prompt": "r", "response": "a", "reward": 1}'),
    "nan reward": row("3", "not-finite", '{"prompt": "q", "response": "a", "reward": NaN}'),
    "blank prompt": row("3", "blank-prompt", '{"prompt": " ", "response": "a", "reward": 1}'),
    "line too long": Fault(
        command=f"{IMPORT} --params '{{\"max_line\": 1000000}}'",
        spoil=lines(json.dumps({"prompt": "x" * 1_100_000, "response": "a", "reward": 1})),
        line="error[10/line-too-long]: io.jsonl rejected 1 of the first 7 rows: bad.jsonl:3",
        then=IMPORT,
    ),
    "empty file": Fault(
        command=IMPORT,
        spoil=lambda folder: (folder / "bad.jsonl").touch(),
        line="error[10/empty-input]: bad.jsonl holds no record",
        mend=lines(),
        then=IMPORT,
    ),
    "torn gzip": Fault(
        command=IMPORT,
        spoil=zipped,
        line="error[10/broken-gzip]: bad.jsonl is not a whole gzip file: it ends inside a gzip member",
        mend=lines(),
        then=IMPORT,
    ),
    "no parquet": Fault(
        command="Import --files bad.parquet --format prompts",
        spoil=lambda folder: (folder / "bad.parquet").write_bytes(b"PAR1" + bytes(40)),
        line="error[10/broken-parquet]: bad.parquet is not a sound Parquet file",
    ),
    "parquet of another schema": Fault(
        command="Import --files bad.parquet --format rewarded",
        spoil=lambda folder: pq.write_table(pa.table({"question": ["q"], "grade": [1]}), folder / "bad.parquet"),
        line="error[10/missing-key]: bad.parquet has no column prompt or input",
    ),
    "ids twice in files": Fault(
        command='Import --files bad.parquet --params \'{"kind": "prompts", "format": null}\'',
        spoil=lambda folder: pq.write_table(prompts("a", "b", "a"), folder / "bad.parquet"),
        line="error[10/duplicate-id]: io.parquet rejected 1 of the first 3 rows: bad.parquet:3",
        then='Import --files bad.parquet --params \'{"kind": "prompts", "format": null}\' --quiver-max-rejected 0.5',
        reason="duplicate-id",
    ),
    "id in two shards": Fault(
        command='Label --data doubled --op length --params \'{"column": "prompt_id"}\'',
        spoil=doubled,
        line="error[10/duplicate-id]: 1 prompt_id of label.length stand in several rows, "
        "first 'a' in part 0 row 0 and part 1 row 1",
    ),
    "no such file": Fault(
        command=IMPORT,
        line="error[2/no-such-file]: there is no file bad.jsonl",
        mend=lines(),
        then=IMPORT,
    ),
    "file of another kind": Fault(
        command="Import --files rows.xlsx",
        spoil=lambda folder: (folder / "rows.xlsx").write_text("PK"),
        line="error[2/file-kind]: rows.xlsx: there is no dataset there, and no way to read it",
    ),
    "address elsewhere": Fault(
        command="Import --files http://localhost:1/rows.jsonl --format rewarded",
        line="error[2/protocol]: http is not a place Quiver may open: http://localhost:1/rows.jsonl",
    ),
    "unknown key": config(
        "[RestIteration]\ntemprature = 1\n",
        "error[2/unknown-key]: unknown key temprature in section [RestIteration]",
        "did you mean temperature?",
    ),
    "unknown key of ours": config(
        "[quiver]\nroots = x\n", "error[2/unknown-key]: unknown key roots in section [quiver]", "did you mean root?"
    ),
    "unknown section": config(
        "[RestIterations]\niteration = 1\n", "error[2/unknown-section]: no section [RestIterations]", "[RestIteration]"
    ),
    "wrong value": config(
        "[quiver]\nverify = sometimes\n", "error[2/bad-setting]: verify: one of full, off, size is needed"
    ),
    "unknown parameter": Fault(
        command=f"{FILTER} threshold --parms 1",
        line="error[2/unknown-parameter]: there is no parameter --parms (did you mean --params?)",
    ),
    "parameter without a value": Fault(
        command=f"{FILTER} threshold --params", line="error[2/command-line]: argument --params: expected one argument"
    ),
    "unknown task": Fault(
        command="Filtre", line="error[2/unknown-task]: there is no task Filtre (did you mean Filter?)"
    ),
    "parameter of another type": Fault(
        command="RestIteration --iteration x",
        line="error[2/bad-parameter]: --iteration: 'x' is not a whole number",
    ),
    "unknown operation": Fault(
        command=f"{FILTER} threshhold",
        line="error[2/unknown-op]: there is no operation filter.threshhold (did you mean filter.threshold?)",
    ),
    "unknown setting": Fault(
        command=f"{FILTER} threshold --params '{{\"minimun\": 1}}'",
        line="error[2/unknown-key]: unknown key minimun (did you mean minimum?)",
    ),
    "operation of another family": Fault(
        command=f"{FILTER} label.length", line="error[2/wrong-family]: label.length is no filter operation"
    ),
    "column of another kind": Fault(
        command=f'{FILTER} threshold --params \'{{"minimum": 1, "column": "response"}}\'',
        line="error[2/not-a-number]: filter.threshold needs a number in response, which is string",
    ),
    "nothing kept": Fault(
        command=f"{FILTER} threshold --params '{{\"minimum\": 7}}'",
        line="error[10/nothing-kept]: reward > 7 keeps none of 6 rows",
        stands="imported/rows",
        then=f"{FILTER} threshold --params '{{\"minimum\": 1.2}}'",
        reason="below",
    ),
    "sql of an unknown column": Fault(
        command=f'{FILTER} where --params \'{{"predicate": "rewrd > 0"}}\'',
        line="error[2/unknown-column]: the predicate 'rewrd > 0' reads a column rewrd that is not there "
        "(did you mean reward?)",
        then=f'{FILTER} where --params \'{{"predicate": "reward >= 0"}}\'',
    ),
    "sql that reads a file": Fault(
        command=f'{FILTER} where --params \'{{"predicate": "(FROM read_text(\\"rows.jsonl\\")) IS NULL"}}\'',
        line="error[2/predicate-forbidden]: the predicate '(FROM read_text(\"rows.jsonl\")) IS NULL' "
        "holds a sub-select",
    ),
    "sql that attaches": Fault(
        command=f'{FILTER} where --params \'{{"predicate": "true); ATTACH (\\"x.db\\""}}\'',
        line="error[2/predicate-syntax]: the predicate 'true); ATTACH (\"x.db\"' is not an expression: "
        "Only SELECT statements can be serialized to json!",
    ),
    "endless template": Fault(
        command="Template --data @rows --op chat --tokenizer @tokenizer --params '"
        '{"response": "response", "template": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}'
        "{% endfor %}\"}'",
        line="error[10/template-limit]: the chat template broke a limit and was stopped",
        then='Template --data @rows --op chat --tokenizer @tokenizer --params \'{"template": "plain"}\'',
    ),
    "wrong tokenizer": Fault(
        command="Train --data @b.tokens --init @policy --learning "
        '\'{"max_steps": 1, "global_batch_size": 2, "optim": {"lr": 1e-3}}\'',
        line="error[10/wrong-tokenizer]: train/b: @stem:b.tokens holds ids of another "
        "tokenizer than @stem:policy speaks",
    ),
    "parallel sizes": Fault(
        command='Train --data @a.tokens --init @policy --ranks 3 --learning \'{"max_steps": 1, '
        '"global_batch_size": 2, "optim": {"lr": 1e-3}, "parallel": {"tensor": 2}}\'',
        line="error[2/parallel-size]: 3 ranks do not fill tensor 2 x pipeline 1",
    ),
    "no room for the weights": Fault(
        command="Train --data @a.tokens --tokenizer @tokenizer --architecture "
        '\'{"num_layers": 200, "hidden_size": 65536, "ffn_hidden_size": 262144, "num_attention_heads": 64, '
        '"num_query_groups": 64, "max_sequence_length": 64}\' --learning '
        '\'{"max_steps": 1, "global_batch_size": 2, "optim": {"lr": 1e-3}}\'',
        line="error[12/no-space]: need about 55.0 TB, * * free",
    ),
    "torn checkpoint": Fault(
        command="Generate --policy @policy --prompts rows.jsonl --max-new-tokens 2",
        spoil=file("base/policy-*/weights/__0_0.distcp", halved),
        line="error[11/checkpoint-damaged]: weights/__0_0.distcp is not the file that was published",
        stands="imported/rows",
    ),
    "damaged shard": Fault(
        command="Filter --data @rows --op threshold --params '{\"minimum\": 1}'",
        spoil=file("base/rows-*/part-00001.parquet", flipped),
        line="error[11/shard-hash]: @rows: part-00001.parquet is not what the manifest says",
    ),
    "cut shard": Fault(
        command="Filter --data @rows --op threshold --params '{\"minimum\": 1}'",
        spoil=file("base/rows-*/part-00001.parquet", halved),
        line="error[11/shard-truncated]: @rows: part-00001.parquet is not what the manifest says",
    ),
    "missing shard": Fault(
        command="Filter --data @rows --op threshold --params '{\"minimum\": 1}'",
        spoil=file("base/rows-*/part-00001.parquet", lambda data: None),
        line="error[11/shard-missing]: @rows: part-00001.parquet is not what the manifest says",
    ),
    "torn manifest": Fault(
        command="Filter --data @rows --op threshold --params '{\"minimum\": 1}'",
        spoil=file("base/rows-*/_manifest.json", halved),
        line="error[11/manifest-torn]: the manifest of @rows cannot be trusted",
    ),
    "disk full": Fault(
        command=f"{FILTER} threshold --params '{{\"minimum\": 1}}'",
        environment=refusing("ENOSPC:write:filter/.*part-"),
        line="error[12/no-space]: could not write @folder/quiver-data/filter/rows-*/_attempt-*/part-*.parquet: ENOSPC",
        stands="imported/rows",
        then=f"{FILTER} threshold --params '{{\"minimum\": 1}}'",
        reason="below",
    ),
    "read-only disk": Fault(
        command=IMPORT,
        spoil=lines(),
        environment=refusing("EROFS:open,mkdir,link,replace,write:quiver-data"),
        line="error[12/read-only]: could not make folder @folder/quiver-data/import: EROFS",
        then=IMPORT,
    ),
    "root is a file": Fault(
        command=f"{IMPORT} --quiver-root bad.jsonl",
        spoil=lines(),
        line="error[12/not-a-folder]: could not make folder bad.jsonl/logs: EEXIST",
        then=IMPORT,
    ),
    "folder without permission": Fault(
        command=f"{IMPORT} --quiver-root locked/data",
        spoil=lambda folder: (lines()(folder), (folder / "locked").mkdir(0o555)),
        mend=lambda folder: (folder / "locked").chmod(0o755),
        bound=True,
        line="error[12/denied]: could not make folder locked/data/logs: EACCES",
        then=f"{IMPORT} --quiver-root locked/data",
    ),
    "iteration below one": Fault(
        command="RestIteration --iteration 0",
        line="error[2/bad-parameter]: --iteration: 0 is below 1, the least there can be",
    ),
    "unknown setup": Fault(
        command="RestIteration --setup digts",
        line="error[2/unknown-setup]: there is no setup digts (did you mean digits?)",
    ),
    "falling thresholds": Fault(
        command="RestIteration --thresholds '[1, 0]'",
        line="error[2/bad-setting]: thresholds rise from one improve step to the next",
    ),
    "unknown learning": Fault(
        command='RestIteration --digits-base \'{"epochs": 1, "global_batch_size": 8, "optim": {"lrr": 1}}\'',
        line="error[2/unknown-key]: unknown key optim.lrr (did you mean optim.lr?)",
    ),
    "cold sampling": Fault(
        command="RestIteration --temperature 0",
        line="error[2/bad-setting]: temperature is 0.0, at least 1e-06 (greedy draws the likeliest)",
    ),
    "operation raises": Fault(
        command="Toy --fail --quiver-processes 1",
        module="toy",
        line="error[10/op-failed]: row prompt_id=p0 in toy.draw: ValueError: the toy broke",
    ),
    "no checkpoint": Fault(
        command="Generate --policy nowhere --prompts rows.jsonl",
        line="error[2/not-found]: nowhere is no model",
    ),
}


KIN = {
    *("missing key", "wrong type", "key twice", "nan reward", "blank prompt"),
    *("cut shard", "missing shard", "sql that attaches", "read-only disk", "unknown learning"),
    *("unknown key of ours", "wrong value", "unknown section", "bad utf-8"),
}
"""In the tail: of one kind with a fault that stays, and each looked at without a command by the tests of its room."""
CASES = [late(name, id=name) if name in KIN else name for name in FAULTS]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    (folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in LINES))
    done = luigi(folder, "Base")
    assert done.returncode == 0, done.stderr
    return folder


REMADE = {"quiver-data/catalog.duckdb", "quiver-data/.catalog-manifests.json"}
"""What a command that made something makes again."""


@pytest.mark.parametrize("name", CASES)
def test_a_fault_has_its_code_and_its_line_and_loses_nothing(base: Path, tmp_path: Path, name: str) -> None:
    fault, folder = FAULTS[name], tmp_path / "work"
    shutil.copytree(base, folder)
    fault.spoil(folder)
    before, harmed = contents(folder), damaged(folder)
    words = arguments(fault.command, folder)
    done = luigi(folder, *words, module=fault.module, bound=fault.bound, **fault.environment)
    output = done.stdout + done.stderr
    errors = [line for line in output.splitlines() if line.startswith("error[")]
    assert len(errors) == 1, output
    assert re.fullmatch(re.escape(named(fault.line, folder)).replace(r"\*", "[^ /]*"), errors[0]), output
    assert fault.more in output
    assert "Traceback" not in output
    assert done.returncode == int(re.match(r"error\[(\d+)/", fault.line)[1]), output  # type: ignore[index]
    assert lost(folder, before) == []
    assert leftovers(folder) == []
    if fault.stands:
        assert list((folder / "quiver-data").glob(f"{fault.stands}-*/_manifest.json")), output
    fault.mend(folder)
    if fault.then:
        before = contents(folder)
        done = luigi(folder, *arguments(fault.then, folder))
        assert done.returncode == 0, done.stderr
        assert {*lost(folder, before)} <= REMADE
        assert reasons(Path(done.stdout.split()[-1])) == ({fault.reason} if fault.reason else set())
    assert damaged(folder) == harmed


def arguments(command: str, folder: Path) -> list[str]:
    """The words of a command, finished datasets named by their places."""
    return shlex.split(named(command, folder))


def named(text: str, folder: Path) -> str:
    """`text` with the places of finished datasets in place of their names."""
    base = folder / "quiver-data" / "base"
    finished = [path for path in base.iterdir() if re.search("-[0-9a-f]{8}$", path.name)]
    places = {re.sub("-[0-9a-f]{8}$", "", path.name): path for path in finished}
    text = re.sub(r"@stem:([a-z.-]+)", lambda match: places[match[1]].name, text)
    return re.sub(r"@([a-z.-]+)", lambda match: str(places.get(match[1], folder)), text)


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that is not a log."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "logs"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def lost(folder: Path, before: dict[str, str]) -> list[str]:
    """Files of before that are gone or changed."""
    now = contents(folder)
    return [name for name, digest in before.items() if now.get(name) != digest]


def reasons(place: Path) -> set[str]:
    """Why rows stand aside in a dataset."""
    from schemas.dataset import Dataset

    gone = Dataset.open(str(place)).read_rejected()
    return set() if gone is None else set(gone["reason"].to_pylist())
