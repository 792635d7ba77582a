"""Lets the target write what a draft learns from: shards of answers to prompts, each with the target's distributions.

A shard is made from nothing but the recipe and its number. So a run that was ended goes on with the shards that are
missing, and several processes, on one machine or many that share a folder, each make every so many-th.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from tandem.distil.conversations import Asking, ShardWorks
from tandem.distil.prompts.mixture import open_mixture
from tandem.distil.provenance import check_or_write, facts_of
from tandem.distil.recipe import Recipe
from tandem.distil.rows import RowRunner
from tandem.distil.shards import read_shard, shard_path, write_shard
from tandem.distil.writing import Writer
from tandem.inference.loaded import LoadedModel
from tandem.inference.loading import load_model, tokenizer_folder
from tandem.inference.parallel.place import own_place
from tandem.models import ModelError, resolve
from tandem.tokenization import Tokenizer

# Between two reports of how far it is.
_REPORT_SECONDS = 0.5


class GenerationError(Exception):
    """Shards cannot be made as the recipe says."""


@dataclass(frozen=True, slots=True)
class Account:
    """Of a shard. tokens: of answers. kinds: sequences by kind of prompt. dropped: prompts by why they were not used
    (see ShardWorks)."""

    tokens: int = 0
    sequences: int = 0
    kinds: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Progress:
    """tokens: of finished answers in all shards that are this process's, those of earlier runs too. wanted: that there
    will be, about. tokens_per_second: of answers that this run finished, since it began. shards: that are whole, of
    `all_shards`. dropped: prompts by why they were not used."""

    tokens: int
    wanted: int
    tokens_per_second: float
    shards: int
    all_shards: int
    dropped: Mapping[str, int]


def shard_count(recipe: Recipe) -> int:
    return math.ceil(recipe.data.tokens / recipe.data.shard_tokens)


def missing_shards(recipe: Recipe, folder: Path) -> list[int]:
    """Numbers of those that are still to be made, by whichever process."""
    return [number for number in range(shard_count(recipe)) if not shard_path(folder, number).exists()]


def read_account(folder: Path, number: int) -> Account:
    """Of a shard that is there."""
    try:
        return Account(**json.loads(_account_path(folder, number).read_text("utf-8")))
    except (OSError, ValueError, TypeError):  # somebody deleted or changed it: what can be counted is
        samples = read_shard(shard_path(folder, number))
        return Account(tokens=sum(len(sample.answer) for sample in samples), sequences=len(samples))


def generate(
    recipe: Recipe,
    folder: Path,
    *,
    base: Path = Path(),
    device: str = "auto",
    report: Callable[[Progress], None] = lambda progress: None,
    note: Callable[[str], None] = lambda text: None,
) -> None:
    """Makes the shards that are missing in `folder`; under torchrun, those that are this process's.

    base: the folder that the recipe's files are relative to. device: see `load_model`; under torchrun each process has
    a GPU of its own. report: told how far it is, twice a second or so. note: told what the user should know. On any end
    all whole shards stay. Raises GenerationError, PromptError, ProvenanceError, NothingToAskError, ModelError,
    TokenizationError, ShardError or OSError.
    """
    place = own_place()
    rank, world = (0, 1) if place is None else (place.rank, place.world)
    if place is not None and device in ("auto", "cuda") and torch.cuda.is_available():
        device = f"cuda:{place.local_rank}"
    folder.mkdir(parents=True, exist_ok=True)
    generation = _Generation(recipe, folder, base, device, report, note)
    numbers = range(rank, shard_count(recipe), world)
    # Another process may be making further ones, for a recipe of more tokens.
    lock = FileLock(folder / f".generation-{rank}.lock", timeout=0) if generation.lacks(numbers) else nullcontext()
    try:
        with lock:
            generation.make(numbers)
    except Timeout as error:
        raise GenerationError(f"another process makes shards in {folder}; let it finish, or end it") from error


class _Generation:
    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        base: Path,
        device: str,
        report: Callable[[Progress], None],
        note: Callable[[str], None],
    ) -> None:
        self._recipe = recipe
        self._folder = folder
        self._device = device
        self._report = report
        self._model = resolve(recipe.target, recipe.revision)
        self._tokenizer = Tokenizer.from_folder(tokenizer_folder(self._model))
        self._mixture = open_mixture(recipe, base, self._tokenizer)
        facts = facts_of(recipe, base, self._model, self._tokenizer.fingerprint)
        machine = {"threads": torch.get_num_threads(), "torch": torch.__version__, "device": _kind(device)}
        for text in (*self._mixture.notes, *check_or_write(folder, facts, machine)):
            note(text)
        self._tokens = self._made = self._shards = 0
        self._dropped: Counter[str] = Counter()
        self._began = self._reported = time.monotonic()

    def lacks(self, numbers: Sequence[int]) -> bool:
        return not all(shard_path(self._folder, number).exists() for number in numbers)

    def make(self, numbers: Sequence[int]) -> None:
        there = [number for number in numbers if shard_path(self._folder, number).exists()]
        for number in there:
            self._count(read_account(self._folder, number))
        missing = [number for number in numbers if number not in set(there)]
        if missing:
            asking, writer = self._load()
            self._began = time.monotonic()
            for number in missing:
                self._make(number, asking, writer, len(numbers))
        self._tell(len(numbers))

    def _load(self) -> tuple[Asking, Writer]:
        data = self._recipe.data
        loaded = load_model(self._model, dtype=data.dtype, device=self._device)
        # Output layers are padded; ids that no token has are never drawn.
        size = min(loaded.vocabulary_size, self._tokenizer.vocabulary_size)
        loaded = replace(loaded, vocabulary_size=size)
        prompt_tokens = min(data.prompt_tokens, loaded.context_length - data.answer_tokens)
        if prompt_tokens < 1:
            raise GenerationError(
                f"data.answer_tokens: answers of {data.answer_tokens} tokens leave no room for a prompt in the"
                f" target's context of {loaded.context_length}"
            )
        ends = frozenset(loaded.end_token_ids) | self._tokenizer.end_token_ids
        asking = Asking(self._mixture, self._tokenizer, data, self._recipe.seed, prompt_tokens, ends)
        if self._mixture.own is not None and not asking.turn_tokens:
            raise GenerationError(
                f"data.prompt_tokens: {prompt_tokens} tokens have no room for a prompt: what the target's chat template"
                f" begins with has {len(self._mixture.own.head)}"
            )
        runner = self._runner(loaded, prompt_tokens + data.answer_tokens)
        return asking, Writer(runner, max(data.answer_tokens, asking.turn_tokens), data.kept)

    def _runner(self, loaded: LoadedModel, row_length: int) -> RowRunner:
        try:
            return RowRunner(loaded, self._recipe.data.batch, row_length)
        except ModelError as error:
            raise ModelError(f"data.batch: {self._recipe.data.batch} sequences at once: {error}") from error

    def _make(self, number: int, asking: Asking, writer: Writer, count: int) -> None:
        works = ShardWorks(asking, number)
        for _ in writer.run(works.next_work):
            if time.monotonic() - self._reported >= _REPORT_SECONDS:
                self._tell(count, works)
        account = Account(works.tokens, len(works.samples), dict(works.kinds), dict(works.dropped))
        _write_account(_account_path(self._folder, number), account)
        write_shard(shard_path(self._folder, number), works.samples)
        self._made += account.tokens
        self._count(account)

    def _count(self, account: Account) -> None:
        self._tokens += account.tokens
        self._shards += 1
        self._dropped.update(account.dropped)

    def _tell(self, count: int, works: ShardWorks | None = None) -> None:
        self._reported = time.monotonic()
        tokens = 0 if works is None else works.tokens
        dropped = self._dropped + (Counter() if works is None else works.dropped)
        rate = (self._made + tokens) / max(1e-9, self._reported - self._began)
        wanted = count * self._recipe.data.shard_tokens
        self._report(Progress(self._tokens + tokens, wanted, rate, self._shards, count, dropped))


def _kind(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device.partition(":")[0]


def _account_path(folder: Path, number: int) -> Path:
    return shard_path(folder, number).with_suffix(".json")


def _write_account(path: Path, account: Account) -> None:
    content = {name: getattr(account, name) for name in Account.__dataclass_fields__}
    scratch = path.with_suffix(".json.part")
    scratch.write_text(json.dumps(content, sort_keys=True) + "\n", "utf-8")
    scratch.replace(path)
