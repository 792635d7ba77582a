"""Answers are the target's own, and a shard depends on nothing but the recipe and its number."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from tandem.distil.conversations import NothingToAskError
from tandem.distil.generation import GenerationError, Progress, generate, missing_shards, read_account
from tandem.distil.provenance import ProvenanceError
from tandem.distil.recipe import Data, Prompts, Recipe
from tandem.distil.seeding import seed_of
from tandem.distil.shards import Sample, read_shard, shard_path, shards
from tandem.models import ModelError
from tandem.noise import NoiseStream, Purpose
from tandem.tokenization import Tokenizer
from tests.support.tiny_target import save_target

_SHARDS = 3
# Only against hanging.
_HANG_SECONDS = 600.0


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("target")
    save_target(folder)
    return folder


def _recipe(target: Path, *, prompts: Prompts | None = None, seed: int = 4, **data: object) -> Recipe:
    usual = {"tokens": 160 * _SHARDS, "shard_tokens": 160, "answer_tokens": 16, "prompt_tokens": 260, "kept": 8,
             "batch": 6, "dtype": "float32"}  # fmt: skip
    prompts = prompts or Prompts(self_written=0.25)
    return Recipe(target=str(target), seed=seed, prompts=prompts, data=Data.model_validate({**usual, **data}))


@pytest.fixture(scope="module")
def made(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The usual recipe's shards, of one run."""
    folder = tmp_path_factory.mktemp("made")
    generate(_recipe(target), folder)
    return folder


@pytest.fixture(scope="module")
def model(target: Path) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()


def _samples(folder: Path) -> list[Sample]:
    return [sample for path in shards(folder) for sample in read_shard(path)]


@torch.inference_mode()
def _log_probs(model: LlamaForCausalLM, sample: Sample) -> torch.Tensor:
    """Of the target by itself, in one plain pass: at each place of the answer."""
    logits = model(input_ids=sample.tokens.long().unsqueeze(0), use_cache=False).logits[0]
    return torch.log_softmax(logits[sample.prompt_length - 1 : -1].double(), -1)


def test_what_is_kept_is_the_targets_distribution(made: Path, model: LlamaForCausalLM) -> None:
    for sample in _samples(made):
        expected, ids = _log_probs(model, sample).topk(8)
        assert torch.allclose(sample.top_log_probs.double(), expected, atol=0.01)
        sure = expected.diff(dim=-1).abs().min(-1).values > 1e-3
        assert torch.equal(sample.top_ids[sure].long(), ids[sure])


def test_temperatures_are_mixed_and_zero_takes_the_likeliest(made: Path, model: LlamaForCausalLM) -> None:
    samples = _samples(made)
    assert {round(sample.temperature, 3) for sample in samples} == {0.0, 0.7, 1.0}
    for sample in samples:
        if sample.temperature == 0:
            log_probs = _log_probs(model, sample)
            best = log_probs.max(-1, keepdim=True).values
            assert (best - log_probs.gather(-1, sample.answer.long().unsqueeze(-1))).max() < 1e-3


def test_each_draw_is_decided_by_noise_of_its_own(target: Path, tmp_path: Path, model: LlamaForCausalLM) -> None:
    """By the noise of (seed, shard, number, place), so that no other sequence has a part in it, and by the target's
    distribution at the temperature."""
    (tmp_path / "asked.txt").write_text("\n".join(f"question {number}?" for number in range(40)))
    prompts = Prompts(files=("asked.txt",), templates=False, self_written=0)
    recipe = _recipe(target, prompts=prompts, temperatures=(1.0, 0.4), tokens=200, shard_tokens=200)
    generate(recipe, tmp_path / "made", base=tmp_path)
    checked = 0
    for number, sample in enumerate(_samples(tmp_path / "made")):
        stream = NoiseStream(seed_of(recipe.seed, "answer", 0, number))
        p = torch.softmax(_log_probs(model, sample) / sample.temperature, -1)
        for place, token in enumerate(sample.answer.tolist()):
            u = stream.uniform(Purpose.TARGET, place)
            edges = p[place, :token].sum().item(), p[place, : token + 1].sum().item()
            assert edges[0] - 1e-4 <= u <= edges[1] + 1e-4
            checked += sample.temperature < 1
    assert checked >= 50


def test_an_answer_ends_with_the_end_token_or_at_its_limit(made: Path) -> None:
    ended = 0
    for sample in _samples(made):
        answer = sample.answer.tolist()
        assert 0 not in answer[:-1]
        assert answer[-1] == 0 or len(answer) == 16
        ended += answer[-1] == 0
    assert ended > 3


def test_sequences_with_and_without_others_beside_them_are_the_same(target: Path, tmp_path: Path) -> None:
    """Of one shard, one at a time and many at a time: each text has its own place in the cache."""
    (tmp_path / "asked.txt").write_text("\n".join(f"question {number} {'of many ' * number}" for number in range(12)))
    prompts = Prompts(files=("asked.txt",), templates=False, self_written=0.3)
    found = []
    for batch in (1, 3, 8):
        recipe = _recipe(target, prompts=prompts, batch=batch, tokens=150, shard_tokens=150)
        generate(recipe, tmp_path / str(batch), base=tmp_path)
        found.append({tuple(sample.tokens.tolist()) for sample in _samples(tmp_path / str(batch))})
    assert len(found[0]) >= 6
    smallest = min(map(len, found))  # how many fit a shard is known later where more are under way
    assert len(found[0] & found[1] & found[2]) >= smallest - 1


def test_prompts_are_turns_of_the_template(made: Path, target: Path) -> None:
    tokenizer = Tokenizer.from_folder(target)
    kinds = {name for number in range(_SHARDS) for name in read_account(made, number).kinds}
    assert "self-written" in kinds and len(kinds) > 5
    texts = [tokenizer.decode(sample.tokens[: sample.prompt_length].tolist(), skip_special_tokens=False)
             for sample in _samples(made)]  # fmt: skip
    chats = [text for text in texts if text.startswith("user: ")]
    assert all(text.endswith("<end>assistant: ") and text.count("<end>") == 1 for text in chats)
    raw = [text for text in texts if not text.startswith("user: ")]
    assert raw and all("<end>" not in text for text in raw)
    assert not any("{passage}" in text for text in texts)


def test_accounts_count_what_is_in_the_shards(made: Path) -> None:
    for number in range(_SHARDS):
        account, samples = read_account(made, number), read_shard(shard_path(made, number))
        assert account.tokens == sum(len(sample.answer) for sample in samples)
        assert account.sequences == len(samples) == sum(account.kinds.values())
        assert 0.85 * 160 <= account.tokens <= 1.3 * 160 + 32
    assert missing_shards(Recipe(target="t", data=Data(tokens=800, shard_tokens=160)), made) == [3, 4]


def _command(recipe: Path, folder: Path) -> list[str]:
    return [sys.executable, "-m", "tandem.distil", "--recipe", str(recipe), "--folder", str(folder)]


def _written(recipe: Recipe, folder: Path) -> Path:
    """The recipe as a file."""
    data, prompts = recipe.data, recipe.prompts
    lines = [f"target = {json.dumps(recipe.target)}", f"seed = {recipe.seed}", "[prompts]"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in prompts.model_dump(exclude_unset=True).items()]
    lines += ["[data]", *(f"{name} = {json.dumps(value)}" for name, value in data.model_dump().items())]
    path = folder / "recipe.toml"
    path.write_text("\n".join(lines))
    return path


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name.startswith("shard-")}


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(made: Path, target: Path, tmp_path: Path) -> None:
    folder, recipe = tmp_path / "killed", _written(_recipe(target), tmp_path)
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(_command(recipe, folder), env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + _HANG_SECONDS
    while not shard_path(folder, 0).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in shards(folder)}
    assert 1 <= len(before) < _SHARDS, "it was to be killed in the middle"
    again = subprocess.run(
        _command(recipe, folder), env=environment, capture_output=True, text=True, timeout=_HANG_SECONDS
    )
    assert again.returncode == 0, again.stderr
    assert _bytes(folder) == _bytes(made)
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())


def test_a_shard_is_the_same_whatever_was_made_before_it(made: Path, target: Path, tmp_path: Path) -> None:
    recipe = _recipe(target)
    generate(recipe, tmp_path)
    for number in (0, 2):
        shard_path(tmp_path, number).unlink()
    generate(recipe, tmp_path)
    assert _bytes(tmp_path) == _bytes(made)


def test_processes_that_share_the_work_make_the_same_shards(
    made: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name, value in {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    told: list[Progress] = []
    for rank, expected in ((1, ["shard-00001"]), (0, ["shard-00000", "shard-00001", "shard-00002"])):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        generate(_recipe(target), tmp_path, report=told.append)
        assert [path.stem for path in shards(tmp_path)] == expected
    assert _bytes(tmp_path) == _bytes(made)
    assert (told[-1].shards, told[-1].all_shards) == (2, 2)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 5}, "seed"), ({"kept": 9}, "data.kept"), ({"batch": 7}, "data.batch"),
        ({"temperatures": (0.0,)}, "data.temperatures"), ({"answer_tokens": 17}, "data.answer_tokens"),
        ({"prompt_tokens": 250}, "data.prompt_tokens"), ({"shard_tokens": 300}, "data.shard_tokens"),
        ({"dtype": "bfloat16"}, "data.dtype"), ({"prompts": Prompts(self_written=0.1)}, "prompts.self_written"),
        ({"prompts": Prompts(templates=False, self_written=1)}, "prompts.templates"),
    ],
)  # fmt: skip
def test_another_recipe_is_refused_by_field(made: Path, target: Path, change: dict[str, object], field: str) -> None:
    before = _bytes(made)
    with pytest.raises(ProvenanceError, match=rf"another {field} \("):
        generate(_recipe(target, **change), made)  # type: ignore[arg-type]
    assert _bytes(made) == before


def test_files_that_were_changed_are_refused_by_field(target: Path, tmp_path: Path) -> None:
    for name in ("asked", "held"):
        (tmp_path / f"{name}.txt").write_text("a\nb\nc\nd")
    prompts = Prompts(files=("asked.txt",), exclude=("held.txt",), self_written=0, templates=True)
    recipe = _recipe(target, prompts=prompts, tokens=20, shard_tokens=20)
    generate(recipe, tmp_path / "made", base=tmp_path)
    for name, field in (("asked", "prompts.files"), ("held", "prompts.exclude")):
        (tmp_path / f"{name}.txt").write_text("a\nb\nc\ne")
        with pytest.raises(ProvenanceError, match=field):
            generate(recipe, tmp_path / "made", base=tmp_path)
        (tmp_path / f"{name}.txt").write_text("a\nb\nc\nd")


def test_more_tokens_are_more_shards_beside_those_that_are_there(made: Path, target: Path, tmp_path: Path) -> None:
    generate(_recipe(target, tokens=160), tmp_path)
    assert len(shards(tmp_path)) == 1
    told: list[Progress] = []
    generate(_recipe(target), tmp_path, report=told.append)
    assert _bytes(tmp_path) == _bytes(made)
    total = sum(read_account(made, number).tokens for number in range(_SHARDS))
    assert (told[-1].tokens, told[-1].shards, told[-1].wanted) == (total, _SHARDS, 160 * _SHARDS)
    assert told[-1].tokens_per_second > 0


def test_excluded_repeated_and_long_prompts_are_dropped_and_counted(target: Path, tmp_path: Path) -> None:
    held = "one two three four five six seven eight nine"
    (tmp_path / "asked.txt").write_text("\n".join([held, "short one", "Short, ONE!", "long " * 200, "another"]))
    (tmp_path / "held.jsonl").write_text(json.dumps({"question": held}))
    prompts = Prompts(files=("asked.txt",), exclude=("held.jsonl",), templates=False, self_written=0)
    recipe = _recipe(target, prompts=prompts, tokens=32, shard_tokens=32)
    generate(recipe, tmp_path / "made", base=tmp_path)
    tokenizer = Tokenizer.from_folder(target)
    texts = [tokenizer.decode(sample.tokens[: sample.prompt_length].tolist()) for sample in _samples(tmp_path / "made")]
    assert set(texts) <= {"user: short oneassistant: ", "user: Short, ONE!assistant: ", "user: anotherassistant: "}
    assert len(texts) == 2
    with pytest.raises(NothingToAskError, match=r"excluded.*long|long.*excluded"):
        generate(recipe.model_copy(update={"data": recipe.data.model_copy(update={"shard_tokens": 400})}),
                 tmp_path / "all", base=tmp_path)  # fmt: skip


def test_a_second_process_in_a_folder_is_refused(target: Path, tmp_path: Path) -> None:
    from filelock import FileLock

    tmp_path.mkdir(exist_ok=True)
    with FileLock(tmp_path / ".generation-0.lock"), pytest.raises(GenerationError, match="another process"):
        generate(_recipe(target), tmp_path)
    assert shards(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"answer_tokens": 4096}, GenerationError, "data.answer_tokens"),
        ({"batch": 3_000_000}, ModelError, "data.batch"),
        ({"prompt_tokens": 6}, GenerationError, "data.prompt_tokens"),
    ],
)
def test_what_does_not_fit_is_refused_by_field(
    target: Path, tmp_path: Path, change: dict[str, int], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        generate(_recipe(target, **change), tmp_path)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A target without a chat template."""
    folder = tmp_path_factory.mktemp("plain")
    save_target(folder, template=None)
    yield folder


def test_a_target_without_a_template_goes_on_with_the_prompts_themselves(plain: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    generate(_recipe(plain, prompts=Prompts(), tokens=100, shard_tokens=100), tmp_path, note=notes.append)
    assert any("no chat template" in note for note in notes)
    tokenizer = Tokenizer.from_folder(plain)
    samples = _samples(tmp_path)
    assert not any(0 in sample.tokens[: sample.prompt_length].tolist() for sample in samples)
    assert not any(tokenizer.decode(sample.tokens.tolist()).startswith("user:") for sample in samples)


def test_a_bad_recipe_is_one_line_that_names_the_field(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('target = "x"\n[data]\nbatch = 0\n')
    done = subprocess.run(
        _command(tmp_path / "recipe.toml", tmp_path / "made"), capture_output=True, text=True, timeout=_HANG_SECONDS
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "data.batch" in done.stderr
