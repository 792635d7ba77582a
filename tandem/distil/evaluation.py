"""How well a draft foresees its target, on answers that it never learnt from: teacher-forced, at every place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tandem.distil.batches import Batch, in_batches, prefetched
from tandem.distil.loss import Places, divergences
from tandem.distil.precision import computing
from tandem.distil.processes import Processes
from tandem.distil.shards import Sample
from tandem.distil.student import Student

#: Candidates of a round for which the expected tokens are told.
CANDIDATES = (1, 2, 4, 8)

# What is summed over sequences, and processes; a list so that it is one tensor to add up.
_SUMS = (
    "places", "loss", "agreeing", "sayable", "greedy_places", "greedy_agreeing", "sampled_places", "sampled_overlap",
    "sampled_most", "overlap", "most",
)  # fmt: skip
_ROUNDS = tuple(f"{kind}_{n}" for kind in ("greedy_rounds", "sampled_tokens") for n in CANDIDATES)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """places: of answers' tokens. loss: nats, KL and weighted TV as in training. greedy_agreement: share of places
    where the draft's likeliest token is the target's, along answers at temperature 0 where there are some.
    one_minus_tv: at temperature 1, along answers sampled at 1 where there are some; the chance that a candidate is
    accepted, at least; one_minus_tv_at_most: with what lies beyond the entries that were kept of the target's
    distribution. sayable: share of the answers' tokens that the draft can say. tokens_per_round_*: by the most
    candidates of a round, the target's own token with them."""

    places: int
    loss: float
    greedy_agreement: float
    one_minus_tv: float
    one_minus_tv_at_most: float
    sayable: float
    tokens_per_round_greedy: dict[str, float]
    tokens_per_round_temperature_1: dict[str, float]


def evaluate(
    student: Student,
    samples: Sequence[Sample],
    places: Places,
    *,
    total_variation: float,
    batch_tokens: int,
    precision: str,
    processes: Processes,
) -> Evaluation:
    """samples: at least one, the same for all processes, which share the work."""
    mine = samples[processes.rank :: processes.count]
    lengths = [len(sample.tokens) for sample in mine]
    by_length = sorted(range(len(mine)), key=lengths.__getitem__)
    batches = in_batches(by_length, lengths, batch_tokens)
    sums = dict.fromkeys(_SUMS + _ROUNDS, 0.0)
    with torch.no_grad():
        for chosen, batch in zip(batches, prefetched(mine, batches, processes.device), strict=True):
            with computing(processes.device, precision):
                logits = student(batch.tokens, batch.places)
            _add(sums, _rows(logits, batch, places, total_variation), [mine[index] for index in chosen])
    total = processes.total(torch.tensor(list(sums.values()), dtype=torch.float64)).tolist()
    return _evaluation(dict(zip(sums, total, strict=True)))


def _rows(logits: Tensor, batch: Batch, places: Places, total_variation: float) -> dict[str, Tensor]:
    """Of each place, on the CPU."""
    found = divergences(logits, places(batch.top_ids), batch.top_log_probs)
    likeliest = logits.argmax(1)
    says = places(batch.answers)
    rows = {
        "loss": found.kl + total_variation * found.tv,
        "agrees": likeliest == places(batch.top_ids[:, 0]),
        "matches": likeliest == says,
        "sayable": says >= 0,
        "overlap": found.overlap,
        "most": found.most,
    }
    return {name: row.cpu() for name, row in rows.items()}


def _add(sums: dict[str, float], rows: dict[str, Tensor], samples: Sequence[Sample]) -> None:
    counts = [len(sample.answer) for sample in samples]
    parts = {name: row.split(counts) for name, row in rows.items()}
    for index, sample in enumerate(samples):
        of = {name: part[index] for name, part in parts.items()}
        number = {name: float(row.double().sum()) for name, row in of.items()}
        sums["places"] += counts[index]
        sums["loss"] += number["loss"]
        sums["agreeing"] += number["agrees"]
        sums["sayable"] += number["sayable"]
        sums["overlap"] += number["overlap"]
        sums["most"] += number["most"]
        if sample.temperature == 0:
            sums["greedy_places"] += counts[index]
            sums["greedy_agreeing"] += number["agrees"]
            matches = of["matches"].tolist()
            for most in CANDIDATES:
                sums[f"greedy_rounds_{most}"] += rounds(matches, most)
        elif sample.temperature == 1:
            sums["sampled_places"] += counts[index]
            sums["sampled_overlap"] += number["overlap"]
            sums["sampled_most"] += number["most"]
            for most in CANDIDATES:
                sums[f"sampled_tokens_{most}"] += float(expected_tokens(of["overlap"], most).double().sum())


def rounds(matches: Sequence[bool], candidates: int) -> int:
    """How many rounds a text takes at temperature 0: each goes on to the first candidate that is not the text's token,
    which the target corrects, or over all candidates and one token more."""
    count = place = 0
    while place < len(matches):
        end = min(place + candidates, len(matches))
        while place < end and matches[place]:
            place += 1
        place += 1
        count += 1
    return count


def expected_tokens(accepted: Tensor, candidates: int) -> Tensor:
    """Tokens of a round that begins at each place, float [N]: 1 + a_0 + a_0 a_1 + ..., with as many factors at most as
    there are candidates. accepted: float [N], the chance that a candidate is accepted. Beyond the text none is."""
    tokens = torch.ones_like(accepted)
    for _ in range(candidates):
        following = torch.cat([tokens[1:], tokens.new_ones(1)])
        tokens = 1 + accepted * following
    return tokens


def _evaluation(sums: dict[str, float]) -> Evaluation:
    def share(part: str, of: str, else_part: str) -> float:
        """Over the answers at the temperature that the figure is of; over all where there are none."""
        return sums[part] / sums[of] if sums[of] else sums[else_part] / sums["places"]

    greedy, sampled = {}, {}
    for most in CANDIDATES:
        if sums["greedy_places"]:
            greedy[str(most)] = sums["greedy_places"] / sums[f"greedy_rounds_{most}"]
        if sums["sampled_places"]:
            sampled[str(most)] = sums[f"sampled_tokens_{most}"] / sums["sampled_places"]
    return Evaluation(
        places=int(sums["places"]),
        loss=sums["loss"] / sums["places"],
        greedy_agreement=share("greedy_agreeing", "greedy_places", "agreeing"),
        one_minus_tv=share("sampled_overlap", "sampled_places", "overlap"),
        one_minus_tv_at_most=share("sampled_most", "sampled_places", "most"),
        sayable=sums["sayable"] / sums["places"],
        tokens_per_round_greedy=greedy,
        tokens_per_round_temperature_1=sampled,
    )


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Rounded to what the figures are worth, so that they can be read."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rounded(each) for key, each in value.items()}
        return round(value, 4) if isinstance(value, float) else value

    return {name: rounded(getattr(evaluation, name)) for name in evaluation.__dataclass_fields__}
