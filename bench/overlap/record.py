"""Records a pair with the real models, once for each content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.overlap.recording import CLASSES, PROMPT_LENGTH, TAIL, Recording, Row, Tail, Text, load, save
from bench.prompts import SPEC_BENCH_20, read_prompts
from bench.rig import BASE, resolve_rig
from tandem.gumbel import gumbel, philox_words
from tandem.inference import runner
from tandem.inference.loading import load_model, tokenizer_folder
from tandem.inference.runner import Block, ModelRunner
from tandem.inference.threads import compute_with
from tandem.models import resolve
from tandem.models.home import tandem_home
from tandem.noise import NoiseStream, Purpose
from tandem.tokenization import Tokenizer

# Entries of a row that are kept: the first ones as the rule draws, and the likeliest.
_RANKED, _LIKELIEST = 8, 16
# Of the noise that chooses the token within its class.
_WITHIN = 1 << 32
# Raised where a recording of the same name would hold something else.
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Subject:
    """What is recorded. draft: as commands name it; the target is the model that the rig is made of."""

    draft: str
    temperature: float = 0.0
    seed: int = 0
    prompts: int = 16
    tokens: int = 144
    dtype: str = "bfloat16"

    @property
    def path(self) -> Path:
        content = f"{_VERSION} {sorted(asdict(self).items())} {SPEC_BENCH_20.read_bytes()!r}"
        return tandem_home() / "recordings" / f"{hashlib.sha256(content.encode()).hexdigest()[:16]}.json"


def recorded(subject: Subject, *, again: bool = False, say: Callable[[str], None] = lambda text: None) -> Recording:
    """Raises ModelError or OSError."""
    if again or not subject.path.exists():
        save(make(subject, say), subject.path)
    return load(subject.path)


def make(subject: Subject, say: Callable[[str], None]) -> Recording:
    """Runs both models. Raises ModelError."""
    compute_with(torch.get_num_threads())
    prompts = prompt_tokens(subject.prompts)
    with torch.inference_mode():
        say("recording the target's texts")
        target = _runner(BASE, subject.dtype)
        texts = _texts(target, prompts, subject)
        del target
        draft = _runner(resolve_rig(subject.draft), subject.dtype)
        done = []
        for index, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
            say(f"recording {subject.draft} along text {index + 1} of {len(texts)}")
            done.append(_along(draft, prompt, text, subject))
    return Recording(subject.draft, subject.temperature, subject.seed, done)


def prompt_tokens(count: int) -> list[list[int]]:
    """The first `count` prompts, as the target's tokenizer has them. Raises ModelError."""
    tokenizer = Tokenizer.from_folder(tokenizer_folder(resolve(BASE, None)))
    prompts = read_prompts(SPEC_BENCH_20, count)
    return [tokenizer.apply_chat_template([{"role": "user", "content": prompt.text}]) for prompt in prompts]


def _runner(name: str, dtype: str) -> ModelRunner:
    return ModelRunner(load_model(resolve(name, None), dtype=dtype, device="cpu"), cache_bytes=1 << 30)


def _texts(target: ModelRunner, prompts: Sequence[Sequence[int]], subject: Subject) -> list[list[int]]:
    sequences = [target.open() for _ in prompts]
    texts: list[list[int]] = [[] for _ in prompts]
    feeds = [list(prompt) for prompt in prompts]
    for number in range(subject.tokens):
        rows = target.forward([Block(each, feed, 1) for each, feed in zip(sequences, feeds, strict=True)])
        tokens = Distributions(torch.cat(rows), [number] * len(prompts), subject).tokens()
        for text, token in zip(texts, tokens, strict=True):
            text.append(token)
        feeds = [[token] for token in tokens]
    return texts


def _along(draft: ModelRunner, prompt: Sequence[int], text: Sequence[int], subject: Subject) -> Text:
    """The draft's distributions at each prefix, and its tails where it errs."""
    sequence = draft.open()
    [logits] = draft.forward([Block(sequence, [*prompt, *text], len(text) + 1)])
    found = Distributions(logits, range(len(text) + 1), subject)
    rows, own = found.rows(), found.tokens()
    classes = [token % CLASSES for token in text]
    wrong = [kept for kept, token in enumerate(classes) if rows[kept].tokens[0] != token]
    tails = _tails(draft, sequence, len(prompt), {kept: own[kept] for kept in wrong}, subject)
    sequence.close()
    return Text(classes, rows, tails)


def _tails(
    draft: ModelRunner, whole: runner.Sequence, start: int, wrong: dict[int, int], subject: Subject
) -> dict[int, Tail]:
    """wrong: the draft's own token by the length of the prefix. All are continued in one batch."""
    forks = {kept: whole.fork() for kept in wrong}
    tokens = {kept: [token] for kept, token in wrong.items()}
    rows: dict[int, list[Row]] = {kept: [] for kept in wrong}
    for kept, fork in forks.items():
        fork.truncate(start + kept)
    for step in range(TAIL if wrong else 0):
        logits = draft.forward([Block(fork, tokens[kept][-1:], 1) for kept, fork in forks.items()])
        found = Distributions(torch.cat(logits), [kept + step + 1 for kept in forks], subject)
        for kept, row, token in zip(forks, found.rows(), found.tokens(), strict=True):
            rows[kept].append(row)
            tokens[kept].append(token)
    for fork in forks.values():
        fork.close()
    return {kept: Tail([token % CLASSES for token in tokens[kept][:TAIL]], rows[kept]) for kept in wrong}


class Distributions:
    """Distributions over tokens and their classes, and what the rule draws from them.

    At temperature 0 a class weighs as much as its likeliest token. Above it a class weighs what its tokens do
    together and is drawn with the noise of the completion; then one of its tokens is, with noise of its own: each
    token has exactly its probability, and both models share all of the noise.
    """

    def __init__(self, logits: Tensor, numbers: Sequence[int] | range, subject: Subject) -> None:
        """logits: fp32 [n, V]. numbers: of the text's token that each row is about."""
        log_p = (logits / (subject.temperature or 1.0)).double().log_softmax(-1)
        self._entropy = -torch.special.xlogy(log_p.exp(), log_p.exp()).sum(-1)
        filling = -log_p.shape[1] % CLASSES
        split = torch.nn.functional.pad(log_p, (0, filling), value=-torch.inf).unflatten(1, (-1, CLASSES))
        positions = torch.tensor(list(numbers)) + PROMPT_LENGTH
        if subject.temperature:
            self._classes = split.logsumexp(1)
            self._scores = self._classes + _noise(positions, subject.seed, CLASSES)
            within = split + _noise(positions, subject.seed + _WITHIN, split.shape[1] * CLASSES).view_as(split)
        else:
            self._scores = self._classes = split.amax(1)
            within = split
        self._within = within.argmax(1)

    def tokens(self) -> list[int]:
        """What is drawn of each row, as token ids of the model."""
        drawn = self._scores.argmax(-1, keepdim=True)
        return (self._within.gather(1, drawn) * CLASSES + drawn).squeeze(1).tolist()

    def rows(self) -> list[Row]:
        """What is kept of each row, by class."""
        ranked = self._scores.topk(_RANKED, dim=-1).indices
        likeliest = self._classes.topk(_LIKELIEST, dim=-1).indices
        rows = []
        for scores, classes, kept, h in zip(
            self._scores.numpy(), self._classes.numpy(), torch.cat([ranked, likeliest], 1).numpy(),
            self._entropy.tolist(), strict=True,
        ):  # fmt: skip
            ids = np.unique(kept)
            ids = ids[np.argsort(-scores[ids], kind="stable")]
            rows.append(Row(ids.tolist(), [round(each, 4) for each in classes[ids].tolist()], round(h, 4)))
        return rows


def _noise(positions: Tensor, seed: int, width: int) -> Tensor:
    """Gumbel noise of the lanes of each position, as coupled draws have it: float64 [n, width]."""
    lanes = torch.arange((width + 3) // 4).unsqueeze(0)
    return gumbel(philox_words(lanes, positions.unsqueeze(1), NoiseStream(seed), Purpose.COUPLED)).flatten(1)[:, :width]
