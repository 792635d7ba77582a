"""Tandem and its peers complete the same prompts to the same length, and speeds are those of the wall's time."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from transformers import GenerationConfig
from typer.testing import CliRunner

from bench.__main__ import app
from bench.goals import Outcome, Verdict, judge, read_goals
from bench.pair import Pair
from bench.peers import llama_cpp, sglang, vllm
from bench.peers.figures import equal_texts, figures
from bench.peers.generation import Generation
from bench.peers.names import (
    ASSISTED,
    FIXED,
    LOOKUP,
    OVER_ASSISTED,
    OVER_ASSISTED_8,
    OVER_ASSISTED_FULL,
    OVER_OFF_8,
    PLAIN,
)
from bench.peers.prompts import Openings, spread
from bench.peers.run import Load, Measured, Plan, Results, measure
from bench.peers.servers import Server, Setup, started
from bench.peers.side import Answer, Ids, SideError
from bench.peers.tandem_side import TandemSide
from bench.policies import ADASD, ALONE, GOODPUT, POLICIES, VANILLA
from tandem.cli.client import Client
from tests.cli import processes
from tests.cli.conftest import models as models  # a fixture
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14], [5, 6, 5, 6, 5, 6]]
STAND_IN = Path(__file__).parent / "completions_server.py"


# Transformers.


def generation(noise: float = 0.1, *, ends: Sequence[int] | None = None, tokens: int | None = None) -> Generation:
    """ends: end of sequence, as both models' authors would have it. tokens: candidates that the draft's ask for."""
    target, draft = tiny_llama().model, tiny_llama(noise=noise).model
    target.generation_config = GenerationConfig(eos_token_id=ends)
    draft.generation_config = GenerationConfig(eos_token_id=ends, num_assistant_tokens=tokens)
    return Generation(target, draft)


def test_all_ways_give_one_text_of_the_length_asked_for_though_any_token_would_end_it() -> None:
    endless = generation(ends=list(range(64)))
    for tokens in (2, 9):
        plain = endless.generate(PLAIN, PROMPTS, tokens)
        assert [len(text) for text in plain] == [tokens] * 3
        alone = [endless.generate(PLAIN, [prompt], tokens)[0] for prompt in PROMPTS]
        assert plain == alone  # padding is nothing that a prompt sees
        for way in (ASSISTED, FIXED, LOOKUP):
            assert endless.generate(way, PROMPTS, tokens) == plain, way


def test_a_fixed_schedule_is_kept_and_the_default_is_the_authors_or_the_librarys() -> None:
    same = generation(noise=0.0)
    calls = []
    same._target.register_forward_hook(lambda *_: calls.append(1))
    same.generate(FIXED, PROMPTS[:1], 12)
    assert len(calls) == 3  # each verifies three candidates, all of them right, and adds one
    assert same.describe()[ASSISTED].startswith("at most 20, schedule constant, confidence threshold 0.4, ")
    assert generation(tokens=7).describe()[ASSISTED].startswith("at most 7, ")
    with pytest.raises(ValueError, match="no draft"):
        Generation(tiny_llama().model, None).generate(ASSISTED, PROMPTS, 2)
    assert list(Generation(tiny_llama().model, None).describe()) == [PLAIN, LOOKUP]


# Turns.


class Sleeper:
    """A side whose calls take a given time, whatever they are asked; keeps what it was asked."""

    def __init__(self, name: str, seconds: float = 0.0, tokens: int | None = None) -> None:
        self.name = name
        self.asked: list[list[list[int]]] = []
        self._seconds = seconds
        self._tokens = tokens

    async def complete(self, prompts: Sequence[Ids], tokens: int) -> list[Answer]:
        self.asked.append([list(prompt) for prompt in prompts])
        await asyncio.sleep(self._seconds)
        return [Answer(self._tokens or tokens, (1,) * tokens)] * len(prompts)

    def note(self, clients: int) -> str:
        return ""


def plan(*clients: int, repetitions: int = 2) -> Plan:
    loads = [Load(number, [[7, number, at] for at in range(4)]) for number in clients]
    return Plan(loads, 5, repetitions, Openings(byte_tokenizer(), 100), random.Random(0))


def ignore(text: str) -> None:
    pass


async def test_speed_is_that_of_the_wall_and_of_all_that_is_asked_at_once() -> None:
    side, results = Sleeper("slow", 0.1), Results()
    began = time.perf_counter()
    await measure([side], plan(1, 4), results, ignore)
    elapsed = time.perf_counter() - began
    alone, together = (results.measured[clients]["slow"].speeds for clients in (1, 4))
    # Four prompts of five tokens: one after the other in four calls of 0.1 s, at once in one.
    assert len(alone) == len(together) == 2
    assert all(20 / elapsed < speed <= 20 / 0.4 for speed in alone)
    assert all(20 / elapsed < speed <= 20 / 0.1 for speed in together)
    assert statistics.fmean(together) > statistics.fmean(alone)


async def test_no_turn_opens_as_another_and_all_warm_up_on_the_prompts_as_they_are() -> None:
    sides, results = [Sleeper("a"), Sleeper("b")], Results()
    await measure(sides, plan(4, repetitions=3), results, ignore)
    prompts = [[7, 4, at] for at in range(4)]
    for side in sides:
        assert side.asked[0] == prompts and len(side.asked) == 4
        assert [[prompt[-3:] for prompt in turn] for turn in side.asked[1:]] == [prompts] * 3
    openings = [tuple(turn[0][:-3]) for side in sides for turn in side.asked[1:]]
    assert len(set(openings)) == 6 and all(0 < len(opening) < 16 for opening in openings)  # within the first block
    text = "".join(byte_tokenizer().decode(opening) for opening in openings)
    assert not text.strip()


async def test_a_side_that_answers_at_another_length_is_left_out_and_says_why() -> None:
    sides, results = [Sleeper("short", tokens=4), Sleeper("right")], Results()
    await measure(sides, plan(1), results, ignore)
    assert list(results.measured[1]) == ["right"]
    assert "4 tokens and not 5" in results.failed["short"]


def test_a_prompt_is_opened_behind_its_begin_of_text() -> None:
    tokenizer = byte_tokenizer()  # 0 is special, others are not
    openings = Openings(tokenizer, 1)
    assert openings.open([0, 0, 5], [9]) == [0, 9, 0, 5]
    assert openings.open([0, 5], [9]) == [9, 0, 5] and openings.open([0], [9]) == [9, 0]
    with pytest.raises(ValueError, match="--repeat"):
        Openings(tokenizer, 10**6)


def test_prompts_are_taken_from_the_files_in_turn(tmp_path: Path) -> None:
    for name, texts in (("a", "12"), ("b", "3")):
        (tmp_path / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    files = [tmp_path / "a", tmp_path / "b"]
    assert [prompt.text for prompt in spread(files, 3)] == ["1", "3", "2"]
    with pytest.raises(ValueError, match="4 prompts are needed"):
        spread(files, 4)


# Figures.


def tandem_side(policy: str, draft_weights: str = "full", *, lossless: bool = True) -> TandemSide:
    side = TandemSide(policy, POLICIES[policy], Client("127.0.0.1:1"), draft_weights, ThreadPoolExecutor(1))
    side.lossless = lossless
    return side


def results_of(*clients: int) -> Results:
    """Speeds of two repetitions; the lossy side is the fastest."""
    results = Results()
    sides = [
        (Sleeper(ASSISTED), [10.0, 20.0]), (tandem_side(ALONE), [50.0, 80.0]),
        (tandem_side(VANILLA), [20.0, 40.0]), (tandem_side(GOODPUT), [30.0, 60.0]),
        (tandem_side(ADASD, lossless=False), [900.0, 900.0]), (tandem_side(VANILLA, "int4"), [40.0, 80.0]),
    ]  # fmt: skip
    for number in clients:
        results.measured[number] = {side.name: Measured(side, [], speeds) for side, speeds in sides}
    return results


def test_figures_are_of_the_fastest_lossless_policy_that_speculates() -> None:
    found = {figure.name: figure for figure in figures(results_of(1, 8), Pair(draft_weights="int4"))}
    assert list(found) == list(read_goals("peers"))
    assert {name: figure.measured for name, figure in found.items()} == pytest.approx(
        {OVER_ASSISTED: 4.0, OVER_ASSISTED_FULL: 3.0, OVER_ASSISTED_8: 4.0, OVER_OFF_8: math.sqrt(0.8)}
    )
    assert found[OVER_ASSISTED].note.startswith("tandem, vanilla 5, int4 draft 56.6 tokens/s against 14.1")
    verdicts = {row.figure.name: row.verdict for row in judge(found.values(), read_goals("peers"), {})}
    # Over our own engine the interval decides: 0.8 to 1.0.
    assert list(verdicts.values()) == [Verdict.HOLDS] * 4
    full = {figure.name: figure for figure in figures(results_of(1, 8), Pair())}
    assert full[OVER_ASSISTED].outcome is Outcome.SKIPPED and full[OVER_ASSISTED].measured == pytest.approx(3.0)
    assert "--draft-weights" in full[OVER_ASSISTED].note
    assert full[OVER_ASSISTED_8].measured == pytest.approx(3.0)


def test_what_was_not_measured_is_skipped_and_what_could_not_be_has_failed() -> None:
    def outcomes(results: Results, pair: Pair) -> dict[str, tuple[Outcome, str]]:
        return {figure.name: (figure.outcome, figure.note) for figure in figures(results, pair)}

    skipped = outcomes(results_of(1), Pair(dtype="float32", draft_weights="int4"))
    assert skipped[OVER_ASSISTED_FULL] == (Outcome.SKIPPED, "its goal is for bfloat16, and --dtype is float32")
    assert skipped[OVER_ASSISTED_8] == skipped[OVER_OFF_8] == (Outcome.SKIPPED, "it takes --clients 8")
    results = results_of(1, 8)
    del results.measured[1][ASSISTED], results.measured[8][ASSISTED]
    results.absent[ASSISTED] = "no model"
    assert outcomes(results, Pair())[OVER_ASSISTED_FULL] == (Outcome.SKIPPED, f"{ASSISTED}: no model")
    results.failed[ASSISTED] = "gone"
    assert outcomes(results, Pair())[OVER_ASSISTED_FULL] == (Outcome.FAILED, f"{ASSISTED}: gone")
    for load in results.measured.values():
        for name in [name for name in load if VANILLA.replace(",", "") in name or GOODPUT in name]:
            del load[name]
    assert outcomes(results, Pair())[OVER_OFF_8][0] is Outcome.SKIPPED
    results.failed["tandem, goodput"] = "not supported"
    assert outcomes(results, Pair())[OVER_OFF_8] == (Outcome.FAILED, "tandem, goodput: not supported")


def test_texts_are_compared_by_tokens_or_where_there_are_none_by_text() -> None:
    decode = byte_tokenizer().decode
    answers = {
        PLAIN: [Answer(1, (66,)), Answer(1, (67,))],
        "tokens": [Answer(1, (66,)), Answer(1, (68,))],
        "text": [Answer(1, None, "a"), Answer(1, None, "B")],
    }
    results = Results({1: {name: Measured(Sleeper(name), given) for name, given in answers.items()}})
    found = {name: equal_texts(results, 1, name, decode) for name in answers}
    assert found == {PLAIN: (2, 2), "tokens": (1, 2), "text": (1, 2)}
    del results.measured[1][PLAIN]
    assert equal_texts(results, 1, "tokens", decode) is None


# Servers of others: their command lines, and a client of their protocol.

SETUP = Setup(
    "/models/target", "/models/draft", "float32", 2, context=512, clients=8, eagle_head="head",
    target_gguf="target.gguf", draft_gguf="draft.gguf",
)  # fmt: skip


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A stand-in for each server where the adapters look for it; gives the environment to start it in."""
    run = f"exec {shlex.quote(sys.executable)} {shlex.quote(str(STAND_IN))}"
    for name in ("vllm", "llama-server"):
        (tmp_path / name).write_text(f'#!/bin/sh\n{run} "$@"\n')
        (tmp_path / name).chmod(0o755)
    (tmp_path / "sglang").mkdir()
    (tmp_path / "sglang" / "__init__.py").touch()
    shutil.copy(STAND_IN, tmp_path / "sglang" / "launch_server.py")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return processes.environment({"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]})


def test_servers_that_are_not_installed_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for adapter in (vllm, sglang, llama_cpp):
        assert adapter.absent(SETUP) == "not installed"


def test_command_lines_name_models_types_limits_and_drafts(installed: dict[str, str]) -> None:
    lines = {
        server.name: " ".join(server.command(8123)[1:])
        for adapter in (vllm, sglang, llama_cpp)
        for server in adapter.servers(SETUP)
    }
    vllm_line = (
        "serve /models/target --host 127.0.0.1 --port 8123 --dtype float32 --max-model-len 512 --max-num-seqs 8"
    )
    sglang_line = (
        "-m sglang.launch_server --model-path /models/target --host 127.0.0.1 --port 8123 --dtype float32"
        " --context-length 512 --max-running-requests 8"
    )
    llama_line = (
        "--model target.gguf --host 127.0.0.1 --port 8123 --parallel 8 --ctx-size 4096 --threads 2"
    )
    draft = {"method": "draft_model", "model": "/models/draft", "num_speculative_tokens": 5}
    eagle = {"method": "eagle3", "model": "head", "num_speculative_tokens": 3}
    assert lines == {
        "vLLM": vllm_line,
        "vLLM, draft 5": f"{vllm_line} --speculative-config {json.dumps(draft)}",
        "vLLM, EAGLE-3": f"{vllm_line} --speculative-config {json.dumps(eagle)}",
        "SGLang": sglang_line,
        "SGLang, STANDALONE":
            f"{sglang_line} --speculative-algorithm STANDALONE --speculative-draft-model-path /models/draft",
        "SGLang, EAGLE-3": f"{sglang_line} --speculative-algorithm EAGLE3 --speculative-draft-model-path head",
        "llama.cpp": llama_line,
        "llama.cpp, draft": f"{llama_line} --model-draft draft.gguf",
    }  # fmt: skip
    bare = Setup("/models/target", None, "float32", None, context=512, clients=8)
    assert [server.name for adapter in (vllm, sglang) for server in adapter.servers(bare)] == ["vLLM", "SGLang"]
    assert llama_cpp.absent(bare) == "needs --target-gguf (and --draft-gguf)"


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def gone(pids: Sequence[int]) -> bool:
    """Within ten seconds: a killed process is there until it has been seen to."""
    assert len(pids) == 2
    for _ in range(200):
        if not any(map(lives, pids)):
            return True
        await asyncio.sleep(0.05)
    return False


async def test_a_server_is_awaited_asked_at_once_and_stopped_with_its_children(installed: dict[str, str]) -> None:
    for adapter in (vllm, sglang, llama_cpp):
        assert adapter.absent(SETUP) is None
        server = adapter.servers(SETUP)[1]
        async with started(server, installed) as side:
            # It answers nobody before all eight have asked.
            prompts = [[at, at + 1, at + 2] for at in range(8)]
            answers = await side.complete(prompts, 4)
            assert [answer.text for answer in answers] == [f"{at * 3 + 3} " * 4 for at in range(8)]
            with_ids = adapter is not llama_cpp
            assert [answer.ids for answer in answers] == [(at * 3 + 3,) * 4 if with_ids else None for at in range(8)]
            assert {answer.tokens for answer in answers} == {4}
            with pytest.raises(SideError, match="answers 400: .*max_tokens"):
                await side.complete([[1]], -1)
            pids = [int(pid) for pid in (await side._client.get("/pids")).json()]
        assert await gone(pids)


async def test_a_server_that_cannot_start_or_talks_nonsense_says_so(installed: dict[str, str]) -> None:
    def server(*command: str) -> Server:
        return Server("x", lambda port: [*command, "--port", str(port)], "m")

    with pytest.raises(SideError, match="did not start: RuntimeError: no memory for 'm'"):
        async with started(server("vllm", "--fail", "no memory for 'm'"), installed):
            pass
    with pytest.raises(SideError, match="did not start: .*No such file"):
        async with started(server("/nowhere/server"), installed):
            pass
    async with started(server("vllm", "--nonsense"), installed) as side:
        with pytest.raises(SideError, match="no completion"):
            await side.complete([[1]], 4)


# The command.


def refused(*flags: str | Path) -> str:
    done = CliRunner().invoke(app, ["peers", *map(str, flags)])
    assert done.exit_code == 2 and not done.stdout and "Traceback" not in done.stderr, done.output
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("bench: "), done.stderr
    return lines[0].removeprefix("bench: ")


def test_what_cannot_be_is_refused_in_one_line_that_names_it(tmp_path: Path) -> None:
    data = tmp_path / "one.jsonl"
    data.write_text('{"text": "Once"}\n')
    assert "'fastest'" in refused("--policy", "fastest")
    assert refused("--dtype", "float16") == "--dtype must be bfloat16 or float32, not 'float16'"
    assert refused("--draft-weights", "int3").startswith("--draft-weights must be one of full, int8, int4")
    assert refused("--draft-weights", "int4", "--draft-model", "prompt-lookup").startswith("--draft-weights: ")
    assert refused("--draft-model", "none").startswith("--draft-model: ")
    assert refused("--draft-gguf", data) == "--draft-gguf needs --target-gguf"
    assert refused("--target-gguf", "nowhere.gguf") == "--target-gguf: nowhere.gguf is no file"
    assert refused("--json", "/nowhere/figures.json") == "/nowhere does not exist"
    assert "nowhere.jsonl" in refused("--data", "nowhere.jsonl")
    assert "8 prompts are needed" in refused("--data", data)
    data.write_text("{}\n")
    assert "line 1" in refused("--data", data)
    for flag in ("--target-model", "--draft-model"):
        done = CliRunner().invoke(app, ["peers", flag, "./nowhere"])
        assert done.exit_code == 2 and done.stderr.startswith("bench: ./nowhere does not exist"), done.stderr


@pytest.fixture
def endless(models: Path, tmp_path: Path) -> Path:
    """The pair, with authors for whom any token ends a sequence."""
    for name in ("target", "draft"):
        shutil.copytree(models / name, tmp_path / name)
        (tmp_path / name / "generation_config.json").write_text(json.dumps({"eos_token_id": list(range(257))}))
    return tmp_path


def test_real_sides_write_the_same_texts_and_are_set_against_the_goals(endless: Path) -> None:
    data, record = endless / "prompts.jsonl", endless / "record.json"
    data.write_text("".join(json.dumps({"text": f"The number {at * 7} is"}) + "\n" for at in range(8)))
    began = time.perf_counter()
    done = processes.run(
        sys.executable, "-m", "bench", "peers", "--data", data, "--count", "2", "--max-tokens", "6", "--repeat", "2",
        "--policy", VANILLA, "--policy", ADASD, "--draft-weights", "int8", "--dtype", "float32", "--threads", "1",
        "--target-model", endless / "target", "--draft-model", endless / "draft", "--json", record, "--check",
    )  # fmt: skip
    elapsed = time.perf_counter() - began
    assert done.returncode in (0, 1), done.stderr
    document = json.loads(record.read_text())
    sides = document["data"]["sides"]
    ours = [f"tandem, {name}{weights}" for weights in ("", ", int8 draft") for name in ("vanilla 5", "AdaSD v1")]
    assert sorted(sides) == sorted([PLAIN, ASSISTED, FIXED, LOOKUP, "tandem, off", *ours])
    spent = 0.0
    for name, loads in sides.items():
        assert f"| {name} " in done.stdout
        for clients, prompts in (("1", 2), ("8", 8)):
            side = loads[clients]
            assert len(side["tokens_per_second"]) == 2
            spent += sum(prompts * 6 / speed for speed in side["tokens_per_second"])
            if ADASD in name:
                assert "lossy" in side["note"]
            else:
                assert side["equal_texts"] == [prompts, prompts], name
    assert 0 < spent < elapsed
    assert "one prompt after the other" in sides[ASSISTED]["8"]["note"]
    assert document["data"]["not_measured"] == {name: "not installed" for name in ("vLLM", "SGLang", "llama.cpp")}
    assert done.stdout.count("not installed") == 3 + ("scikit-learn is not installed" in done.stdout)
    assert "transformers" in document["data"]["versions"] and document["options"]["draft_weights"] == "int8"

    rows = {row["name"]: row for row in document["rows"]}
    assert list(rows) == list(read_goals("peers")) and rows[OVER_ASSISTED_FULL]["verdict"] == "skipped"
    for name, side, peer, clients in (
        (OVER_ASSISTED, "tandem, vanilla 5, int8 draft", ASSISTED, "1"),
        (OVER_ASSISTED_8, "tandem, vanilla 5, int8 draft", ASSISTED, "8"),
        (OVER_OFF_8, "tandem, vanilla 5, int8 draft", "tandem, off", "8"),
    ):
        speeds, others = (sides[each][clients]["tokens_per_second"] for each in (side, peer))
        ratios = [one / other for one, other in zip(speeds, others, strict=True)]
        assert rows[name]["measured"] == pytest.approx(statistics.geometric_mean(ratios))
        assert rows[name]["note"].startswith(side)
    short = [name for name, row in rows.items() if row["verdict"] == "short"]
    assert done.returncode == bool(short) and f"{4 - len(short) - 1} of 4 goals hold" in done.stdout
