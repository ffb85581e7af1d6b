"""The page of a run: what stands in it, that nothing in it does anything, and that it can be made again."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.catalog.ask import workspace_process
from datakit.catalog.workspace import read_workspace
from pipelines.report.figures import Change, Figure, FigureTable
from pipelines.report.html import PAGE, charts, page
from pipelines.report.html.ancestry import ancestry
from pipelines.report.html.answers import answers
from pipelines.report.html.asked import asked
from pipelines.report.html.blocks import Grid, Section
from pipelines.report.html.curves import _read, _thinned, curves
from pipelines.report.html.drift import drift
from pipelines.report.html.funnel import funnel
from pipelines.report.html.made_with import environment, settings, timings
from pipelines.report.html.outcome import headline
from pipelines.report.html.record import RunRecord, read_record
from pipelines.report.html.reported import ReportedRun
from pipelines.report.html.rewards import rewards
from pipelines.report.renderer import Report
from pipelines.report.table import changes
from quiver import console
from schemas import REPORTS, SAMPLES, Dataset
from schemas.errors import ConflictError, DataError
from tests.datakit.catalog.workspaces import REWARDED, WHY, Maker, rewarded, samples
from tests.pipelines.pages import Page

LONG = "1 MB " + "x" * (1 << 20)
HOSTILE = [
    "<script>document.title = 'run'</script>",
    "<img src=http://127.0.0.1:9/a onerror=alert(1)>",
    "</style></script><svg onload=alert(1)>",
    "\x1b[31mred\x1b[0m",
    "=cmd|' /C calc'!A0",
    "\u202egnp.exe",
    "{{ 7 * 7 }} {% raw %}",
    "\"><a href='javascript:alert(1)'>",
    "\x00\ud83d\ufffe".encode("utf-8", "replace").decode(),
    LONG,
]
TABLE = FigureTable(
    "figures of <b>rest</b>",
    (
        Figure("gold before", ".1%", change="gold"),
        Figure("gold after", ".1%", meaning="the same & after", change="gold"),
        Figure("judge"),
    ),
    ((0.25, 0.5, HOSTILE[0]),),
    (f"note {HOSTILE[1]}",),
)
TAGS = """html head meta title style body header p h1 h2 pre dl div dt dd span b strong nav ul li a main section table
caption thead tbody tr th td details summary figure figcaption search label input output ol bdi footer script svg g path
rect text line"""


def run_in(root: Path, texts: list[str], *, spread: float = 1.0) -> list[str]:
    """Answers of two policies with rewards and figures, those above 0 kept; the places, the last one's last."""
    make, places = Maker(root), []
    for when, gain in (("first.", 0.0), ("iter=1/", 0.5)):
        rows = samples(len(texts)).drop_columns(["response"])
        rows = rows.append_column(pa.field("response", pa.string(), nullable=False), pa.array(texts))
        turn = [[{"role": "user", "content": text}] for text in texts]
        at = rows.column_names.index("messages")
        rows = rows.set_column(at, rows.schema.field(at), pa.array(turn, rows.schema.field(at).type))
        rows = rewarded(rows.select([name for name in REWARDED.names if name != "reward"]),
                        [gain + spread * (number - len(texts) / 2) for number in range(len(texts))])  # fmt: skip
        judged = make(f"rest/x/{when}answers.rewards-0000000{len(places)}", REWARDED, rows, op="label.reward")
        figures = pa.table({"stage": [when], "metric": ["reward.mean"], "value": [gain]}, schema=REPORTS.arrow)
        measured = make(f"rest/x/{when}evaluation-0000000{len(places) + 1}", REPORTS, figures, judged,
                        op="report.measure", params={"columns": ["reward"]})  # fmt: skip
        places += [judged.url, measured.url]
    kept = [number for number in range(len(texts)) if number > len(texts) / 2]
    left = rows.take(pa.array([number for number in range(len(texts)) if number not in kept], pa.int64()))
    for column, value in zip(WHY, ("below", 0.0, "0"), strict=True):
        left = left.append_column(column.field, pa.array([value] * left.num_rows, column.type))
    params, rows = {"minimum": 0.0, "prefix": HOSTILE[0]}, rows.take(pa.array(kept, pa.int64()))
    made = make("rest/x/iter=1/kept-00000009", REWARDED, rows, Dataset.open(places[-2]), op="filter.threshold",
                params=params, rejected=left)  # fmt: skip
    return [Path(place).relative_to(root).as_posix() for place in (*places, made.url)]


@pytest.fixture(autouse=True)
def no_charts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Most of these tests are of what stands between them."""
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    yield
    charts._drawn.cache_clear()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "quiver-data"
    root.mkdir()
    return root


def written(root: Path, texts: list[str], **more: Any) -> Path:
    report = Report(
        title="RestIteration",
        folder=str(root / "rest/x"),
        tables=(TABLE,),
        root=str(root),
        results=tuple(run_in(root, texts, **more)),
        command=f"quiver RestIteration --experiment '{HOSTILE[2]}'",
    )
    assert PAGE.render(report).endswith("rest/x/report-00000009.html")
    return root / "rest/x/report-00000009.html"


def test_what_a_run_came_to_stands_in_its_page(root: Path) -> None:
    made = Page.read(written(root, [f"answer {number}" for number in range(40)]))
    [title] = [text for text in made.texts if text.startswith("RestIteration made")]
    assert title == (
        "RestIteration made 5 datasets with 101 rows in all and 0 checkpoints, in 2.5 s of work. Gold went from 25.0% "
        "to 50.0%. 21 rows were left out on the way, each with its reason."
    )
    headings = re.findall(
        r"^(?:Figures|Rewards|Rows|Drift|Answers|Lineage|Settings|Timings|Environment)$", made.text, re.M
    )
    assert headings[:9] == headings[9:], "every heading has its link"
    assert [*dict.fromkeys(headings)] == [
        "Figures", "Rewards", "Rows", "Drift", "Answers", "Lineage", "Settings", "Timings", "Environment",
    ]  # fmt: skip
    assert "Left out" not in made.text and "below 21" in made.text
    assert made.text.count("better by 0.5") == 40 and "answer 39" in made.text
    assert {attributes["href"] for attributes in made.all("a")} == {f"#{name.lower()}" for name in headings}


def test_hostile_rows_are_inert(root: Path) -> None:
    place = written(root, HOSTILE)
    made = Page.read(place)
    assert {tag for tag, _ in made.elements} <= {*TAGS.split()}
    names = {name for _, attributes in made.elements for name in attributes}
    assert not [name for name in names if name.startswith("on") or name in ("src", "style", "action", "srcdoc")]
    assert all(str(one["href"]).startswith("#") for one in made.all("a"))
    assert len(made.all("script")) == len(made.all("style")) == 1
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", place.read_text(encoding="utf-8"))
    for text in HOSTILE[:3]:
        assert text in made.text, "it is a text, whole"
    assert "\\u001b[31mred" in made.text and "\\u202egnp.exe" in made.text and "{{ 7 * 7 }}" in made.text
    assert "(1,048,581 characters)" in made.text and place.stat().st_size < 1 << 20


def test_a_page_allows_its_own_script_alone_and_asks_nobody(root: Path) -> None:
    made = Page.read(written(root, ["a", "b"]))
    [policy] = [str(one["content"]) for one in made.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert rules.pop("default-src") == rules.pop("base-uri") == rules.pop("form-action") == "'none'"
    for kind, rule in rules.items():
        [text] = made.raw[kind.removesuffix("-src")]
        assert rule == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert not re.search(r"url\(|@import|https?:", "".join(made.raw["style"] + made.raw["script"]))


def test_a_page_is_never_longer_than_its_limit(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = written(root, [f"{number} {'long ' * 200}" for number in range(60)])
    whole = Page.read(place)
    monkeypatch.setattr(page, "MOST_BYTES", place.stat().st_size - 1)
    record = read_record(place.with_suffix(".json"))
    page.write(place, record, str(root))
    assert whole.text.count("better by") == 60 and Page.read(place).text.count("better by") == 30
    monkeypatch.setattr(page, "MOST_BYTES", 100)
    with pytest.raises(DataError, match="too large"):
        page.write(place, record, str(root))


def test_charts_are_drawn_where_something_draws_them(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = written(root, [f"answer {number}" for number in range(40)])
    plain = Page.read(place)
    assert not plain.all("svg") and "install" in plain.text and "No charts" in plain.text
    monkeypatch.undo()
    charts._drawn.cache_clear()
    pytest.importorskip("vl_convert")
    page.write(place, read_record(place.with_suffix(".json")), str(root))
    drawn = Page.read(place)
    assert len(drawn.all("svg")) == 6 and "No charts" not in drawn.text
    assert all(one["aria-label"] for one in drawn.all("div") if one.get("role") == "img")


def test_what_servers_were_asked_stands_in_the_page(root: Path) -> None:
    make, rows = Maker(root), samples(2)
    known = {
        "requests": 4.0,
        "prompt_tokens": 1200.0,
        "completion_tokens": 80.0,
        "cost": 0.25,
        "seconds": 6.0,
        "timed": 4.0,
    }
    for name, counts in (
        ("a-00000001", known),
        ("b-00000002", {"requests": 1.0, "uncounted": 1.0}),
        ("c-00000003", {}),
    ):
        given = {f"server.{one}": count for one, count in counts.items()} | {"other": 1.0}
        make(f"rest/x/{name}", SAMPLES, rows, op="generate.complete", counts=given)
    for _ in range(2):  # the second time of what is kept of manifests
        with workspace_process(str(root)) as process:
            places = tuple(f"rest/x/{name}" for name in ("a-00000001", "b-00000002", "c-00000003"))
            run = ReportedRun(read_workspace(str(root)), RunRecord(task="x", results=places, environment={}), process)
            section = asked(run)
        assert section is not None and section.lead == (
            "Servers answered 5 requests, 1,200 tokens of prompts, 80 tokens of answers, cost 0.25, 1.5 s a request, "
            "1 without a count of tokens."
        )
        [grid] = section.blocks
        assert isinstance(grid, Grid) and list(grid.rows) == [
            ("a", "4", "1,200", "80", "0.25", "1.5"), ("b", "1", "-", "-", "-", "-"),
        ]  # fmt: skip


def test_a_small_change_of_a_share_looks_small() -> None:
    def domain(*values: float) -> list[float] | None:
        points = [{"series": "x", "x": str(number), "y": value} for number, value in enumerate(values)]
        scale = charts.lines(points, "evaluation", ordinal=True, share=True)["encoding"]["y"]["scale"]
        return scale.get("domain")  # type: ignore[no-any-return]

    assert domain(0.997, 1.0) == [0.9, 1.0] and domain(0.0, 0.02) == [0.0, 0.1]
    assert domain(0.5, 0.52) == pytest.approx([0.46, 0.56]) and domain(0.2, 0.9) is None


def test_what_is_yes_or_no_stands_with_the_numbers_of_its_column() -> None:
    rows = (("sign", "-", "17.6%", "read so"), ("other", "11.5%", "no", "and so"))
    assert Grid(caption="x", columns=("sign", "first", "1", "how"), rows=rows).to_right == (False, True, True, False)
    assert Grid(caption="x", columns=("right",), rows=(("yes",),)).to_right == (False,)


def test_a_run_does_not_fail_by_its_page(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report(title="x", folder=str(root / "x"), tables=(), root=str(root), results=("x/gone-00000001",))
    (root / "x").write_text("a file where a folder is needed")
    assert PAGE.render(report).startswith("\nno page: ")
    assert PAGE.render(Report(title="x", folder="x", tables=(TABLE,))) == "", "nothing was made"
    assert "local" in PAGE.render(Report(title="x", folder="s3://a", tables=(), root="s3://a", results=("b-00000001",)))


def test_a_page_is_made_again_of_what_lies_there(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root.parent)
    place = written(root, [f"answer {number}" for number in range(40)])
    before = place.read_bytes()
    place.unlink()
    assert console.run(["report", "rest/x"]) == 0
    assert capsys.readouterr().out == "page quiver-data/rest/x/report-00000009.html\n"
    assert place.read_bytes() == before
    place.with_suffix(".json").unlink()
    assert console.run(["report", "--out", "own.html"]) == 0
    made = Page.read(root.parent / "own.html")
    assert "Figures" not in made.texts and "Drift" in made.texts and "rest/x made 5 datasets" in made.text
    with pytest.raises(ConflictError, match="is there already"):
        console.run(["report", "--out", "own.html"])


@pytest.mark.parametrize("text", ["{", "[]", '{"task": 1}', json.dumps({"task": "x", "results": ["a"], "tables": [
    {"caption": "c", "columns": ["a"], "rows": [["1", "2"]]}], "environment": {}})])  # fmt: skip
def test_a_record_that_no_recipe_wrote_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "report-1.json").write_text(text)
    with pytest.raises(DataError, match="cannot be read") as caught:
        read_record(tmp_path / "report-1.json")
    assert caught.value.slug == "report-unreadable"


def test_the_figures_that_a_run_changed_are_those_that_its_table_names() -> None:
    columns = (
        Figure("iteration"),
        Figure("right at first", ".1%", change="gold"),
        Figure("right then", ".1%", change="gold"),
        Figure("of answers", "+.1f", " to ", change="reward"),
        Figure("seconds", "g", " -> "),
        Figure("unmeasured", change="lost"),
        Figure("half measured", ".1f", " -> ", change="half"),
    )
    rows = ((1, 0.25, 0.5, (0.1, 0.2), (9, 8), None, (1.0, None)), (2, 0.5, 0.75, (0.2, 0.4), (9, 7), 1.0, (2.0, None)))
    table = FigureTable("x", columns, rows)
    assert changes(table) == [Change("gold", "25.0%", "75.0%"), Change("reward", "+0.1", "+0.4")]
    assert changes(FigureTable("x", columns, ())) == []


def test_the_head_of_a_page_has_room_for_four_changes(root: Path) -> None:
    given = tuple(Change(f"figure {number}", "1", "2") for number in range(5))
    record = RunRecord(task="x", results=(), changes=given, environment={})
    with workspace_process(str(root)) as process:
        assert headline(ReportedRun(read_workspace(str(root)), record, process)) == given[:4]


def test_a_record_is_read_as_it_was_written(root: Path) -> None:
    place = written(root, ["a", "b"]).with_suffix(".json")
    record = read_record(place)
    assert isinstance(record, RunRecord) and record.to_json() == place.read_text()
    assert record.tables[0].meanings == (("gold after", "the same & after"),)


PARTS: list[Callable[[ReportedRun], Section | None]] = [
    rewards, funnel, drift, curves, partial(answers, rows=3), ancestry, settings, timings, environment,
]  # fmt: skip


def test_no_part_has_anything_to_say_of_a_run_without_results(root: Path) -> None:
    with workspace_process(str(root)) as process:
        run = ReportedRun(read_workspace(str(root)), RunRecord(task="x", results=(), environment={}), process)
        assert [part(run) for part in PARTS] == [None] * len(PARTS)


def test_curves_are_means_of_neighbours_and_half_lines_are_left_out(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "loss": float(step), "lr": 1.0}) for step in range(1, 481)]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 481, "loss": "nan"}', '{"step": 482, "lo']))
    figures = _read(tmp_path / "metrics.jsonl")
    assert {name: len(points) for name, points in figures.items()} == {"loss": 480}
    thinned = list(_thinned(figures["loss"]))
    assert len(thinned) == 240 and thinned[0] == (1.5, 1.5) and thinned[-1] == (479.5, 479.5)
    assert _read(tmp_path / "gone.jsonl") == {}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium")
def test_nothing_of_a_hostile_page_runs_or_leaves_in_a_browser(root: Path) -> None:
    asked: list[str] = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)

    server = HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    mark = f"<script>document.title='run'</script><img src={address}/a><link rel=stylesheet href={address}/b>"
    place = written(root, [f"{mark} {number}" for number in range(20)])
    (root / "open.html").write_text(f"<title>x</title><img src={address}/control>")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
    control, shown = (
        subprocess.run(["chromium", *flags, f"file://{one}"], capture_output=True, text=True, timeout=120, check=True)
        for one in (root / "open.html", place)
    )
    server.shutdown()
    server.server_close()
    assert "<title>x</title>" in control.stdout and asked == ["/control"], "the listener hears what is asked"
    assert "<title>RestIteration: rest/x</title>" in shown.stdout and ">20 of 20<" in shown.stdout
