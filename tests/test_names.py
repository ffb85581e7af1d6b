"""Names that tell nothing, and names that were given up for the field's own."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sources import FILES, MODULES, ROOT, TESTS, TREES, within


def names_given(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that a file gives to a variable, parameter, attribute, function, class or import, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)) and not isinstance(node.ctx, ast.Load):
            yield (node.id if isinstance(node, ast.Name) else node.attr), node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((alias.asname, node.lineno) for alias in node.names if alias.asname)
        elif isinstance(node, (ast.stmt, ast.ExceptHandler, ast.pattern)) and (name := getattr(node, "name", None)):
            yield name, node.lineno


EMPTY = {"told", "held", "said", "found", "hear", "tidy", "spoken"}


def is_empty(name: str) -> bool:
    """Whether it is one of these words, or a compound of one; of `held` there is `held_out`."""
    words = name.strip("_").lower().split("_")
    return {*words} <= EMPTY or (words[0] != "test" and bool({*words} & (EMPTY - {"held"})))


def test_no_name_tells_nothing() -> None:
    """`found` is the field of an error, and given there alone."""
    assert all(map(is_empty, ("_said", "found_numbers", "HELD"))) and not any(map(is_empty, ("held_out", "test_found")))
    examples = {path: ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "docs").rglob("*.py")}
    given = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path, tree in {**{path: TREES[path] for path in FILES + TESTS}, **examples}.items()
        for name, line in names_given(tree)
        if is_empty(name) and not (name == "found" and path == ROOT / "schemas" / "errors.py")
    ]
    assert not given, "\n".join(given)


ENGINE_STEP = ("trainers.engine.training", "trainers.engine.reporting")
RUNS = ("trainers.run", "trainers.engine.training", "pipelines.makers", "pipelines.online", "pipelines.graph.external")
RUNS += (
    "pipelines.graph.node",
    "pipelines.graph.nodes",
    "pipelines.graph.plan",
    "pipelines.graph.why",
    "pipelines.graph.backend",
)
RUNS += ("pipelines.runtime.tasks", "pipelines.runtime.targets", "datakit.run", "datakit.apply", "schemas.store")
TOKENIZED = (
    "schemas",
    "datakit",
    "trainers",
    "pipelines.graph",
    "pipelines.runtime",
    "pipelines.cli",
    "pipelines.commands",
)
TOKENIZED += ("pipelines.stages", "pipelines.recipes", "pipelines.backends")  # in setups it is a size, and a flag
KEYED = ("trainers.engine.checkpoint", "pipelines.online")
ASKING = ("pipelines.stages", "pipelines.commands", "pipelines.online")
ASKED = ("trainers.algorithm", "trainers.algorithms", "trainers.engine.megatron", "trainers.engine.inference")
GIVEN_UP: list[tuple[str, str, tuple[str, ...]]] = [
    # names that were given up, the field's own in their place, and where (nothing: anywhere) the old ones meant that
    ("Said", "ModelOutputs outputs", ()),
    ("say", "forward extract_outputs", (*ASKED, "trainers.engine.training")),
    ("Sequence", "TokenColumn", ()),
    ("Pair mean_of", "SumCount sum_count", ("trainers",)),
    ("notes", "row_metrics", ("trainers", "schemas")),
    ("CHOICES choices", "GATHERED gather_ids", ("trainers",)),
    ("Model", "ModelConfig TrainedCheckpoint", ()),
    ("Source", "TokenDataset TaskSetup", ("trainers", "pipelines")),
    ("decisive circumstance", "identity_fields runtime_info", ()),
    ("fingerprint", "task_key content_digest", ()),
    ("key", "task_key", RUNS),
    ("digest", "content_digest json_digest", ()),
    ("content", "content_digest", ("pipelines", "schemas.manifest", "schemas.dataset")),
    ("identity", "tokenizer_identity identity_fields", ("schemas", *ENGINE_STEP, *KEYED)),
    ("Spoken speaking speech", "TokenizerByColumn token_columns tokenizer_check tokenizer_lineage", ()),
    ("identities", "tokenizer_lineage", ()),
    ("VOCABULARIES", "TOKENIZERS", ()),
    ("vocabulary", "tokenizer vocab_size tokenizer_name", TOKENIZED),
    ("Ground TaskSource", "EvalSetup SetupConfig", ()),
    ("source sources source_of source_kind SOURCES", "setup setups setup_of setup_kind", ("pipelines.setups",)),
    ("source sources", "setup task_setup", ("pipelines.commands.recipe", "pipelines.recipes", "pipelines.stages")),
    ("Step", "IterationResult GlobalBatch StepConfig", ("trainers", *ASKING)),
    ("Tally tally Outcome outcome", "StepSums StepResult", ()),
    ("places PLACES", "padded_tokens PADDED_TOKENS", ENGINE_STEP),
    ("Feed Cut", "BatchLoader BatchSharding", ()),
    ("shares", "split_over_dp", ("trainers",)),
    ("fewest_ranks cut_faults", "min_world_size parallel_errors", ()),
    ("vetting initial", "safe_unpickle weight_init", ()),
    ("moments sample", "optimizer_state token_sampling generator", ("trainers", "pipelines")),
    ("writing", "checkpoint_writer", ("trainers", "pipelines")),
    ("leads", "is_rank_zero", ()),
    ("together", "on_rank_zero", ("trainers",)),
    ("beat Presence", "heartbeat RankStatus", ()),
    ("Evidence Case Verdict", "Observations Launch LaunchResult", ()),
    ("adopt Adopt", "import_hf ImportModel", ("trainers.engine", "pipelines")),
    ("tidy standing_at story", "remove_stale find_existing quiver_config graph", ()),
    ("Found foreign", "Existing add external", ()),
    ("guest skeleton Skeleton", "jinja_worker segments", ()),
    ("aside", "rejections", ("datakit.filter", "datakit.columns", "datakit.run")),
    ("wire outside", "protobuf hf_files", ("schemas", "datakit", "trainers.engine.weights")),
    ("Goal wanted Verb Places", "Command targets StageCommand resolve", ()),
    ("Kept space", "FilterDecision disk_estimate", ()),
    ("Labelled", "LabelResult LabelledChat", ()),
    ("READS", "token_columns", ()),
    (
        "settled",
        "graph_property",
        ("pipelines.graph.node", "pipelines.graph.nodes", "pipelines.graph.order", "pipelines.graph.external"),
    ),
    ("learnt", "trained_template", ("pipelines.graph.node", "pipelines.graph.nodes")),
    ("Prompting Keeping Improving keeping improving", "Method keep improve", ()),
    ("Desk desk Growing growing Wrong", "AnswerQueue StreamedText RequestError", ()),
    ("Talk talk", "Conversation", ("pipelines.serve", "quiver")),
    ("Misfit misfit Lesson lesson", "InvalidValue LossTurns loss_turns", ()),
]
GONE = "desk draw identities initial moments outside preferred sample space speech story vetting wire writing"
"""Modules that have another name now."""


def docstring_words(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The identifiers in backticks of every docstring, each part of a dotted one, with a line."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node, clean=False) or ""
            for name in re.findall(r"`([A-Za-z_][\w.]*)(?:\([^`]*\))?`", text):
                if not name.endswith(".json") and name != "tokenize.adopt":  # on disk: in keys, beside a job's log
                    yield from ((part, node.body[0].lineno) for part in name.split("."))


@functools.cache
def names_of(path: Path) -> list[tuple[str, int]]:
    """What a file names and its docstrings speak of, read once for all the names that were given up."""
    return [*names_given(TREES[path]), *docstring_words(TREES[path])]


@pytest.mark.parametrize(("old", "new", "where"), GIVEN_UP, ids=[row[0].split()[0] for row in GIVEN_UP])
def test_no_name_that_was_given_up_comes_back(old: str, new: str, where: tuple[str, ...]) -> None:
    """Neither as a name, with an underscore or without, nor in backticks of a docstring."""
    back = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for module, path in MODULES.items()
        if not where or within(module, *where)
        for name, line in names_of(path)
        if name.strip("_") in old.split()
    ]
    assert not back, "\n".join(back)


def test_the_names_in_their_place_are_used() -> None:
    given = {name for path in FILES for name, _ in names_given(TREES[path])}
    given |= {part for module in MODULES for part in module.split(".")}
    missing = [name for _, new, _ in GIVEN_UP for name in new.split() if name not in given]
    assert not missing


def test_no_module_has_a_name_that_was_given_up() -> None:
    gone = {module for module in MODULES if module.rpartition(".")[2] in GONE.split()}
    assert not gone and "pipelines.sources" not in MODULES
    stems = {path.stem.removeprefix("test_") for path in TESTS}
    assert not stems & {*GONE.split(), "foreign", "places", "adopt_model"}
