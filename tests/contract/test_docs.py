"""The pages of docs/ are fresh and whole, every link leads somewhere, and what they quote is what was measured."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor
from markdown_it import MarkdownIt
from markdown_it.token import Token

from orchestrator.completions import Completions
from orchestrator.gateway.app import make_app
from orchestrator.gateway.names import POLICIES
from orchestrator.settings import OrchestratorSettings
from orchestrator.upstream import Upstream
from tandem.cli.options import RequestOptions, build_request
from tandem.policies import ACCEPT_RULES, STOP_RULES
from tandem.rpc.errors import CODES
from tandem.v1 import (
    block_pb2,
    completion_pb2,
    distribution_pb2,
    draft_pb2,
    errors_pb2,
    grammar_pb2,
    model_pb2,
    policy_pb2,
    sampling_pb2,
    target_pb2,
)
from tests.support.tokens import byte_tokenizer

ROOT = Path(__file__).parents[2]
API = ROOT / "docs/api.md"
REMEDY = "docs/api.md does not match protos/: run `make protos` and commit the result"
FILES = [
    module.DESCRIPTOR
    for module in (
        completion_pb2, policy_pb2, sampling_pb2, grammar_pb2, model_pb2, draft_pb2, block_pb2, distribution_pb2,
        target_pb2, errors_pb2,
    )
]  # fmt: skip
PAGES = [
    page
    for pattern in ("*.md", "[!.]*/*.md", "[!.]*/*/*.md")
    for page in sorted(ROOT.glob(pattern))
    if page.relative_to(ROOT).parts[0] not in ("build", "shared")
]
MARKDOWN = MarkdownIt("commonmark").enable("table")


def load_tool(protos: Path = ROOT / "protos") -> ModuleType:
    spec = importlib.util.spec_from_file_location("document", protos / "document.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(page: Path) -> dict[str, list[list[str]]]:
    """Cells of the tables below each heading, Markdown as written, without their heads."""
    found: dict[str, list[list[str]]] = {}
    below, body = "", False
    tokens = MARKDOWN.parse(page.read_text(encoding="utf-8"))
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            below = tokens[index + 1].content
        elif token.type in ("tbody_open", "tbody_close"):
            body = token.type == "tbody_open"
        elif body and token.type == "tr_open":
            found.setdefault(below, []).append([])
        elif body and token.type == "td_open":
            found[below][-1].append(tokens[index + 1].content)
    return found


def test_the_reference_is_fresh(tmp_path: Path) -> None:
    assert load_tool().document(tmp_path).read_bytes() == API.read_bytes(), REMEDY


def test_a_changed_comment_makes_the_reference_stale(tmp_path: Path) -> None:
    protos = shutil.copytree(ROOT / "protos", tmp_path / "protos")
    file = protos / "tandem/v1/completion.proto"
    changed = file.read_text().replace("// The sampling chain.", "// The | chain, if x < y.")
    assert changed != file.read_text()
    file.write_text(changed)
    page = load_tool(protos).document(tmp_path)
    assert page.read_bytes() != API.read_bytes()
    assert ["`sampling`", "[SamplingParams](#samplingparams)", "", "The | chain, if x &lt; y."] in rows(page)[
        "CompleteRequest"
    ]


def test_every_service_call_type_field_and_value_has_its_line() -> None:
    tables = rows(API)
    told = {heading: {row[0].strip("`") for row in lines} for heading, lines in tables.items()}
    for file in FILES:
        for service in file.services_by_name.values():
            assert told[service.name] == {method.name for method in service.methods}
        for message in file.message_types_by_name.values():
            assert told.get(message.name, set()) == _names(message), message.name
        for enum in file.enum_types_by_name.values():
            if enum.name != "ErrorReason":
                assert told[enum.name] == {value.name for value in enum.values}, enum.name
    for heading, lines in tables.items():
        assert all(line[-1] for line in lines), f"{heading} has a line that says nothing"


def _names(message: Descriptor) -> set[str]:
    oneofs = {f"*{oneof.name}*" for oneof in message.oneofs if not oneof.name.startswith("_")}
    return {field.name for field in message.fields} | oneofs


def test_the_catalogue_of_errors_is_that_of_the_services() -> None:
    assert {row[0].strip("`"): row[1] for row in rows(API)["Errors"]} == {
        reason: code.name for reason, code in CODES.items()
    }


async def test_every_call_of_callers_has_its_route() -> None:
    upstream = Upstream(["127.0.0.1:1"], connect_timeout_seconds=1.0)  # nobody is asked
    spec = make_app(Completions(byte_tokenizer(64), upstream, OrchestratorSettings())).openapi()
    await upstream.close()
    routes = {f"{method.upper()} {path}" for path, methods in spec["paths"].items() for method in methods}
    told = {row[0].strip("`"): row[1].strip("`") for row in rows(API)["Over HTTP"]}
    assert set(told.values()) == {route for route in routes if "/tandem/" in route}
    calls = {method.name for method in completion_pb2.DESCRIPTOR.services_by_name["CompletionService"].methods}
    assert set(told) == calls - {"CompleteOnce"}  # a stream whose events are put together


def test_callers_come_first() -> None:
    text = API.read_text(encoding="utf-8")
    order = ["## CompletionService", "### CompleteRequest", "### SpeculationPolicy", "## DraftService", "## Errors"]
    places = [text.index(f"\n{heading}\n") for heading in order]
    assert places == sorted(places)


# Links.


def _inline(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from _inline(token.children or [])


@cache
def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings; those that occur again are numbered."""
    tokens = MARKDOWN.parse(page.read_text(encoding="utf-8"))
    found: set[str] = set()
    seen: Counter[str] = Counter()
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            text = "".join(each.content for each in tokens[index + 1].children or [])
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return found


def broken(page: Path) -> list[str]:
    """Links of a page to files or headings that are not there. Addresses of other hosts are not looked at."""
    found = []
    for token in _inline(MARKDOWN.parse(page.read_text(encoding="utf-8"))):
        link = token.attrGet("href" if token.type == "link_open" else "src")
        if token.type not in ("link_open", "image") or not isinstance(link, str) or re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        aim = page.parent / path if path else page
        if not aim.exists() or (anchor and aim.suffix == ".md" and anchor not in anchors(aim)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_resolves(page: Path) -> None:
    assert broken(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b` c!\n[1](#a-b-c) [2](#a) [3](x.md) [4](page.md#a-b-c) ![5](y.png) [6](https://x.org/#a)\n")
    assert broken(page) == ["#a", "x.md", "y.png"]


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    others = [path.name for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "README.md"]
    assert others and all(f"]({name})" in index for name in others)


# Policies.


def test_every_rule_is_explained() -> None:
    tables = rows(ROOT / "docs/policies.md")
    first = {name.strip("`") for lines in tables.values() for line in lines for name in line[0].split(", ")}
    assert {*STOP_RULES, *ACCEPT_RULES, "off"} <= first


def test_names_of_policies_mean_the_same_everywhere() -> None:
    found = {}
    for name, as_json, flags in rows(ROOT / "docs/policies.md")["Names"]:
        message = json_format.Parse(as_json.strip("`"), policy_pb2.SpeculationPolicy())
        words = flags.strip("`").split()
        options = {flag.removeprefix("--"): value for flag, value in zip(words[::2], words[1::2], strict=True)}
        assert build_request(RequestOptions(**options)).speculation == message
        found[name.strip("`")] = message
    assert found == dict(POLICIES)


@pytest.mark.parametrize("page", ["policies.md", "reproducibility.md"])
def test_figures_that_are_quoted_were_measured(page: str) -> None:
    """Every number of a section that says so stands in the record of results."""
    results = (ROOT / "bench/RESULTS.md").read_text(encoding="utf-8")
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    sections = re.findall(r"^## [^\n]*[Mm]easured[^\n]*\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    numbers = {number for section in sections for number in re.findall(r"\d*\.\d+", section)}
    assert numbers, f"{page} has no section of measured figures"
    recorded = set(re.findall(r"\d*\.\d+", results))
    assert sorted(numbers - recorded) == []
