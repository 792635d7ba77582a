"""The text that penalties look at, and what they take from the scores of its tokens.

Repetition penalty as transformers has it, over prompt and generated text; presence and frequency penalties as OpenAI
defines them, over the generated text only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from tandem.transfers import upload


class History:
    """The text that penalties look at: the prompt, and what was generated, counted as it grows and shrinks."""

    def __init__(self, prompt_ids: Iterable[int], generated_ids: Iterable[int] = ()) -> None:
        self.prompt: frozenset[int] = frozenset(prompt_ids)
        self.generated: list[int] = []
        self.counts: Counter[int] = Counter()
        self.extend(generated_ids)

    def append(self, token: int) -> None:
        """Adds one generated token."""
        self.generated.append(token)
        self.counts[token] += 1

    def extend(self, tokens: Iterable[int]) -> None:
        """Adds generated tokens."""
        for token in tokens:
            self.append(token)

    def fork(self, length: int) -> History:
        """Another one with the first `length` generated tokens."""
        other = History(())
        other.prompt, other.generated, other.counts = self.prompt, list(self.generated), Counter(self.counts)
        other.truncate(length)
        return other

    def become(self, generated: Sequence[int], unchanged: int) -> None:
        """Takes on another text, at the cost of what differs. unchanged: how many of its first tokens the old one has,
        as far as it goes."""
        self.truncate(max(0, unchanged))
        self.extend(generated[len(self.generated) :])

    def truncate(self, length: int) -> None:
        """Keeps the first `length` generated tokens."""
        for token in self.generated[length:]:
            self.counts[token] -= 1
            if not self.counts[token]:
                del self.counts[token]
        del self.generated[length:]


def penalise(
    scores: Tensor,
    history: History,
    candidates: Sequence[int],
    *,
    repetition: float = 1.0,
    presence: float = 0.0,
    frequency: float = 0.0,
) -> None:
    """Penalises scores fp32 [n, V] in place; row i follows the text of `history` and `candidates[:i]`."""
    # (row, token) pairs of candidates that precede a row, each pair once with its count.
    extra = [Counter(candidates[:row]) for row in range(len(scores))]
    device = scores.device
    if repetition != 1:
        base = history.prompt | history.counts.keys()
        pairs = [(row, token) for row, counts in enumerate(extra) for token in counts if token not in base]
        for index in ((slice(None), upload(sorted(base), torch.long, device)), _places(pairs, device)):
            seen = scores[index]
            scores[index] = torch.where(seen < 0, seen * repetition, seen / repetition)
    if presence or frequency:
        amounts = [presence + frequency * count for count in history.counts.values()]
        scores[:, upload(list(history.counts), torch.long, device)] -= upload(amounts, torch.float32, device)
        pairs = [(row, token) for row, counts in enumerate(extra) for token in counts]
        amounts = [(0 if token in history.counts else presence) + frequency * extra[row][token] for row, token in pairs]
        scores[_places(pairs, device)] -= upload(amounts, torch.float32, device)


def _places(pairs: Sequence[tuple[int, int]], device: torch.device) -> tuple[Tensor, ...]:
    """(row, token) pairs as an index of scores."""
    return tuple(upload(pairs, torch.long, device).view(-1, 2).T)
