"""The report is one page that needs nothing else, shows each document as it is, and takes nothing from it for HTML."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from bench.__main__ import app
from bench.goals import Figure, Goal, Row, Verdict
from tests.bench import documents

ROOT = Path(__file__).parents[2]
EMBEDDED = {"target_model": "embedded:smollm2", "draft_model": "embedded:smollm2-draft"}
FEW = ("target alone", "vanilla, 5", "AdaSD v1")
EVIL = "<script>alert('&')</script>"


class Page(HTMLParser):
    """What a browser would find. Tags must be closed in order."""

    _EMPTY = {"meta", "img", "link", "br", "hr"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self._EMPTY:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str, attribute: str) -> list[str]:
        return [value for name, found in self.tags if name == tag and (value := found.get(attribute)) is not None]

    @property
    def pictures(self) -> list[bytes]:
        start = "data:image/svg+xml;base64,"
        sources = self.all("img", "src")
        assert all(source.startswith(start) for source in sources)
        return [base64.b64decode(source.removeprefix(start)) for source in sources]


def report(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def page_of(folder: Path, *files: Path) -> Page:
    out = folder / "page.html"
    done = report(*files, "--out", out)
    assert done.exit_code == 0, done.output
    return Page(out.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One of each bench, of a rig but for the last."""
    folder, source = tmp_path_factory.mktemp("files"), random.Random(1)
    sides = {"transformers": 24.0, "tandem, off": 26.0, EVIL: 41.0}
    contents: dict[str, Any] = {
        "decode": documents.decode_data(source, (*FEW, EVIL), each=2, datasets=("gsm8k",)),
        "quality": documents.quality_data(source, (*FEW, EVIL)),
        "serve": documents.serve_data(source, (*FEW, EVIL)),
        "peers": documents.peers_data(source, sides),
    }
    for name, data in contents.items():
        documents.write(folder / f"{name}.json", name, data, note=EVIL)
    documents.write(folder / "engine.json", "engine", rows=documents.engine_rows(source), **EMBEDDED)
    return [folder / f"{name}.json" for name in (*contents, "engine")]


@pytest.fixture(scope="module")
def page(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(tmp_path_factory.mktemp("page"), *files)


def test_it_needs_neither_the_network_nor_scripts(page: Page) -> None:
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    assert all(address.startswith("#") for address in page.all("a", "href"))
    style = "".join(page.words)
    assert "url(" not in style and "@import" not in style and "//" not in "".join(re.findall(r"\{[^}]*\}", style))
    for svg in page.pictures:
        addresses = set(re.findall(rb"[a-z]+://[^\s\"'<)]*", svg))
        assert addresses <= {b"http://www.w3.org/2000/svg", b"http://www.w3.org/1999/xlink"}  # names, not places
        assert b"<image" not in svg and b"<text" not in svg  # no fonts to look for


def test_each_picture_is_there_once_and_named(page: Page, files: list[Path]) -> None:
    assert len(page.pictures) == len(set(page.pictures)) == 11
    assert all(page.all("img", "alt"))
    for title in (
        "Speed over the target alone", "Acceptance by position",
        "Speed against quality: negative log-likelihood, temperature 0",
        "Entropies of accepted and rejected tokens, temperature 0", "Thresholds over time, temperature 0",
        "Distances of accepted and rejected tokens, temperature 0", "Where the time goes, temperature 0",
        "Under load: closed", "Beside other software", "Figures over their goals",
    ):  # fmt: skip
        assert page.all("img", "alt").count(title) == 1


def test_the_contents_lead_everywhere(page: Page) -> None:
    anchors = [found["id"] for _, found in page.tags if "id" in found]
    assert len(anchors) == len(set(anchors))
    addresses = [address.removeprefix("#") for address in page.all("a", "href")]
    assert set(addresses) <= set(anchors)
    assert set(page.all("section", "id")) | set(page.all("figure", "id")) <= set(addresses)


def test_what_comes_from_files_is_text(page: Page) -> None:
    assert page.text.count(EVIL) >= 8  # in what was asked and in the tables of all benches
    assert "<script" not in page.source and page.source.count("&lt;script&gt;alert(&#39;&amp;&#39;)") >= 8


def test_each_document_says_where_it_is_from(page: Page, files: list[Path]) -> None:
    for path in files:
        document = json.loads(path.read_text())
        for told in (document["machine"], document["commit"], document["when"]):
            assert told in page.text
    assert page.text.count("A rig: real costs and agreement of a pair that does not exist.") == 4
    assert "Rough" not in page.text


def test_goals_stand_with_their_verdicts(tmp_path: Path) -> None:
    rows = [
        Row(Figure("quick", 0.5, (0.4, 0.6), "made of 9"), Goal("a time", 1.05, "at most"), "a time", Verdict.HOLDS),
        Row(Figure("slow", 2.0), Goal("a speed", 3, "at least"), "a speed", Verdict.SHORT),
        Row(Figure.skipped("late", "not asked for"), Goal("a soak", 1, "at most"), "a soak", Verdict.SKIPPED),
        Row(Figure("beside", 7.0), None, "for comparison", Verdict.NO_GOAL),
    ]
    documents.write(tmp_path / "rows.json", "engine", rows=rows, **EMBEDDED)
    text = page_of(tmp_path, tmp_path / "rows.json").text
    assert "Of 3 goals: 1 hold, 1 fall short, 1 not measured." in text
    assert "quick a time 0.500 0.400 to 0.600 at most 1.05 holds made of 9" in text
    assert "slow a speed 2.000 at least 3 short" in text
    assert "late a soak at most 1 skipped not asked for" in text
    assert "beside for comparison 7.000 none" in text


def test_tables_hold_the_figures_of_the_document(tmp_path: Path) -> None:
    data = documents.decode_data(random.Random(2), FEW, each=2)
    data["runs"][0]["pair"] |= EMBEDDED
    documents.write(tmp_path / "decode.json", "decode", data, **EMBEDDED)
    text = page_of(tmp_path, tmp_path / "decode.json").text
    for name in FEW[1:]:
        reports = [each["speculation"] for each in data["runs"][0]["policies"][name]]
        drafted, accepted, steps = (
            sum(each[key] for each in reports) for key in ("drafted_tokens", "accepted_tokens", "verify_steps")
        )
        assert f"{name} {1 + accepted / steps:.2f} {accepted / drafted:.1%}".replace("%", " %") + f" {drafted}" in text
    assert "a pair that does not exist" not in text and "embedded:smollm2" in text


def test_broken_promises_and_what_was_not_measured_are_told(tmp_path: Path) -> None:
    quality = documents.quality_data(random.Random(6), FEW) | {"not_measured": {"humaneval pass@1": "no sandbox"}}
    documents.write(tmp_path / "quality.json", "quality", quality)
    peers = documents.peers_data(random.Random(7), {"transformers": 20.0}) | {"not_measured": {"vLLM": "not installed"}}
    peers["sides"]["transformers"]["1"]["equal_texts"] = [3, 4]
    documents.write(tmp_path / "peers.json", "peers", peers)
    text = page_of(tmp_path, tmp_path / "quality.json", tmp_path / "peers.json").text
    assert "vanilla, 5 the target's own text 11 of 12 texts equal broken" in text
    assert "humaneval pass@1 no sandbox" in text and "vLLM not installed" in text and "5 3 of 4" in text


def test_a_pair_that_exists_beside_rigs_is_told_from_them(tmp_path: Path) -> None:
    data = documents.decode_data(random.Random(8), FEW, (0.0, 0.0), each=2, traced=False)
    data["runs"][1]["pair"] |= EMBEDDED
    documents.write(tmp_path / "decode.json", "decode", data, **EMBEDDED)
    text = page_of(tmp_path, tmp_path / "decode.json").text
    assert "does not exist. This is so of rig:wide-3 with rig:noise-0.05." in text
    assert "pairs rig:wide-3 with rig:noise-0.05; embedded:smollm2 with embedded:smollm2-draft count 4" in text


def test_a_rough_run_says_so(tmp_path: Path) -> None:
    documents.write(tmp_path / "a.json", "serve", documents.serve_data(random.Random(3), FEW))
    document = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps(document | {"rough": True}))
    assert "Rough: a quick run, which repeats little." in page_of(tmp_path, tmp_path / "a.json").text


def test_a_missing_picture_says_why(tmp_path: Path) -> None:
    data = documents.decode_data(random.Random(4), FEW, each=2, traced=False)
    documents.write(tmp_path / "decode.json", "decode", data)
    documents.write(tmp_path / "quality.json", "quality", documents.quality_data(random.Random(5), FEW, 0.7))
    found = page_of(tmp_path, tmp_path / "decode.json", tmp_path / "quality.json")
    assert found.text.count("is not drawn. The run has no traces.") == 3
    assert "Speed against quality is not drawn. It needs a document of `bench decode`" in found.text
    assert len(found.pictures) == 3


def test_a_bench_that_nobody_knows_is_shown_with_its_rows(tmp_path: Path) -> None:
    rows = [Row(Figure("novel", 2.5), Goal("something", 2, "at least"), "something", Verdict.HOLDS)]
    documents.write(tmp_path / "new.json", "new/../bench", {"runs": "of another form"}, rows, **EMBEDDED)
    pictures = tmp_path / "pictures"
    done = report(tmp_path / "new.json", "--out", tmp_path / "page.html", "--pictures", pictures)
    assert done.exit_code == 0, done.output
    assert "novel something 2.500 at least 2 holds" in Page((tmp_path / "page.html").read_text()).text
    assert sorted(path.name for path in pictures.iterdir()) == ["1-new----bench-goals.png", "1-new----bench-goals.svg"]


def test_pictures_are_written_as_they_are_in_the_page(files: list[Path], tmp_path: Path) -> None:
    done = report(files[0], "--out", tmp_path / "page.html", "--pictures", tmp_path / "pictures")
    assert done.exit_code == 0, done.output
    found = Page((tmp_path / "page.html").read_text()).pictures
    assert {path.read_bytes() for path in (tmp_path / "pictures").glob("*.svg")} == set(found)
    png = [path.read_bytes() for path in (tmp_path / "pictures").glob("*.png")]
    assert len(png) == len(found) and all(each.startswith(b"\x89PNG") for each in png)


def test_two_runs_write_the_same_bytes(files: list[Path], tmp_path: Path) -> None:
    pages = []
    for seed in ("1", "2"):
        out = tmp_path / f"{seed}.html"
        command = [sys.executable, "-m", "bench", "report", *map(str, files[1:]), "--out", str(out)]
        environment = os.environ | {"PYTHONHASHSEED": seed, "MPLBACKEND": "svg"}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == 0 and not done.stderr, done.stderr
        pages.append(out.read_bytes())
    assert pages[0] == pages[1]


def _edited(path: Path, *keys: str | int, value: Any) -> str:
    document = json.loads(path.read_text())
    place = document
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("keys", "value", "named"),
    [
        (("data", "runs", 0, "temperature"), "warm", "data.runs.0.temperature"),
        (("data", "runs", 0, "policies", "AdaSD v1"), [], "did not complete the same prompts"),
        (("data", "runs", 0, "traces", "AdaSD v1", 0, 0, "kept"), {}, "data.runs.0.traces.AdaSD v1.0.0.kept"),
        (("data",), [1], "data."),
        (("rows",), {"a": 1}, "rows"),
        (("bench",), 5, "bench"),
        (("options",), "none", "options"),
    ],
)
def test_a_document_of_another_form_is_refused_by_place(
    files: list[Path], tmp_path: Path, keys: tuple[str | int, ...], value: Any, named: str
) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text(_edited(files[0], *keys, value=value))
    done = report(wrong, "--out", tmp_path / "page.html")
    assert done.exit_code == 2 and not (tmp_path / "page.html").exists()
    (line,) = done.stderr.strip().splitlines()
    assert "wrong.json" in line and named in line


def test_files_that_are_no_documents_are_refused_in_one_line(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.json").write_text("no JSON")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    out = tmp_path / "page.html"
    cases: list[tuple[list[str | Path], str]] = [
        ([tmp_path / "text.json", "--out", out], "text.json"),
        ([tmp_path / "list.json", "--out", out], "list.json"),
        ([tmp_path / "bytes.json", "--out", out], "bytes.json"),
        ([tmp_path / "deep.json", "--out", out], "deep.json"),
        ([tmp_path / "nowhere.json", "--out", out], "nowhere.json"),
        ([files[4], files[4], "--out", out], "engine.json is named twice"),
        ([files[4], "--out", files[4]], "--out"),
        ([files[4], "--out", tmp_path / "no" / "page.html"], "no"),
        ([files[4], "--out", out, "--pictures", tmp_path / "text.json"], "text.json"),
    ]
    for arguments, named in cases:
        done = report(*arguments)
        assert done.exit_code == 2, arguments
        (line,) = done.stderr.strip().splitlines()
        assert named in line
    assert json.loads(files[4].read_text())["bench"] == "engine"
