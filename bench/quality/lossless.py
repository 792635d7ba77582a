"""Whether policies that promise the target's text, or its law, keep the promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.completions import complete, request_for
from bench.policies import ALONE, VANILLA
from bench.prompts import Prompt
from bench.quality.laws import ERROR_RATE, Counts, outcomes, same_law
from bench.quality.run import Answer, Asking, in_parallel
from bench.quality.services import Services
from tandem.policies import policy_from_names
from tandem.v1 import completion_pb2, policy_pb2

Policies = Mapping[str, policy_pb2.SpeculationPolicy]

#: Above temperature 0 it promises the target's text for every seed.
COUPLED = "coupled, 5"
COUPLED_POLICY = policy_from_names("fixed", "coupled", max_tokens=5)
#: The rules of verification that promise the law are always tested, whatever was chosen.
_TESTED = {
    VANILLA: policy_from_names("fixed", "ratio", max_tokens=5),
    "block, 5": policy_from_names("fixed", "block", max_tokens=5),
}
#: Takes nearly all that the draft says; a test that does not notice would notice nothing.
CONTROL = "control: the draft's law"
_CONTROL_POLICY = policy_from_names("fixed", "jsd", max_tokens=5, threshold=1.0)
_LOSSLESS_RULES = ("exact", "ratio", "block", "coupled")

# The first token is the target's alone; the next two lie in one block, on both sides of a correction or before a bonus.
_TOKENS, _TESTED_TOKENS = 4, slice(1, 3)
_LIKELIEST = 4  # of each position are kept (top-k), so that outcomes are few
_PROMPTS, _WORDS = 3, 12  # cut where a text can go on in many ways, which answers seldom can


@dataclass(frozen=True, slots=True)
class Check:
    """holds: None where the check says nothing."""

    policy: str
    what: str
    found: str
    holds: bool | None


def lossless(policies: Policies) -> list[str]:
    """Names of those that speculate without changing the law."""
    return [name for name, policy in policies.items() if policy.accept.WhichOneof("rule") in _LOSSLESS_RULES]


def same_texts(name: str, answers: Mapping[str, Sequence[Answer]], *, is_exact: bool) -> Check:
    """is_exact: whether a block and its steps one by one round alike, as they do in float32 but for ties."""
    pairs = [(one.completion, other.completion) for one, other in zip(answers[name], answers[ALONE], strict=True)]
    equal = sum(one.token_ids == other.token_ids for one, other in pairs)
    drafted = sum(one.finish.speculation.drafted_tokens for one, _ in pairs)
    found = f"{equal} of {len(pairs)} texts equal, {drafted} tokens drafted"
    is_telling = drafted > 0 and is_exact
    return Check(name, "the target's own text", found, equal == len(pairs) if is_telling else None)


def same_laws(
    services: Services, prompts: Sequence[Prompt], policies: Policies, asking: Asking, samples: int
) -> list[Check]:
    """Pairs of tokens by each lossless policy against the target's alone, each side with seeds of its own.

    samples: of each side, after the beginning of each of up to three prompts. Where all keep their promise, the chance
    that one is found broken is ERROR_RATE at most (Bonferroni's correction).
    """
    tested = {**{name: policies[name] for name in lossless(policies)}, **_TESTED}
    places = sorted({0, len(prompts) // 2, len(prompts) - 1})[:_PROMPTS]
    chosen = [_beginning(prompts[place]) for place in places]
    sides = {ALONE: policy_pb2.SpeculationPolicy(off=True), **tested, CONTROL: _CONTROL_POLICY}
    jobs = [(side, prompt, number) for prompt in range(len(chosen)) for number in range(samples) for side in sides]
    order = list(sides)

    def sample(job: tuple[str, int, int]) -> tuple[tuple[int, ...], int]:
        side, prompt, number = job
        # No seed is used twice: samples must be independent.
        number += (prompt * len(order) + order.index(side)) * samples
        request = _request(chosen[prompt], sides[side], asking, number)
        completion = complete(services.client, request)
        return tuple(completion.token_ids[_TESTED_TOKENS]), completion.finish.speculation.drafted_tokens

    counts: dict[str, list[Counts]] = {name: [Counter() for _ in chosen] for name in sides}
    drafted: Counter[str] = Counter()
    for (side, prompt, _), (tokens, count) in zip(jobs, in_parallel(sample, jobs, asking.parallel), strict=True):
        counts[side][prompt][tokens] += 1
        drafted[side] += count
    return judged(counts, drafted, ERROR_RATE / len(tested), samples)


def _beginning(prompt: Prompt) -> Prompt:
    return Prompt(prompt.dataset, prompt.name, " ".join(prompt.text.split()[:_WORDS]), raw=True)


def _request(
    prompt: Prompt, policy: policy_pb2.SpeculationPolicy, asking: Asking, offset: int
) -> completion_pb2.CompleteRequest:
    made = request_for(
        prompt, policy, max_tokens=_TOKENS, temperature=asking.temperature, seed=asking.seed + offset
    )
    made.sampling.top_k = _LIKELIEST
    return made


def judged(
    counts: Mapping[str, Sequence[Counts]], drafted: Counter[str], limit: float, samples: int
) -> list[Check]:
    """counts: pairs of tokens by policy and prompt, the target's alone among them. limit: under which a chance is no
    chance any more."""
    checks = []
    for name in counts:
        if name == ALONE:
            continue
        pairs = list(zip(counts[name], counts[ALONE], strict=True))
        chance = same_law(pairs)
        kinds = sum(outcomes(one, other) for one, other in pairs)
        found = f"p = {chance:.2g}, limit {limit:.2g}; {samples} samples a side and prompt, {kinds} outcomes"
        found += f", {drafted[name]} tokens drafted"
        is_same = chance > limit
        if name == CONTROL:
            found += "; not told from the target's, so these samples show little" if is_same else "; told apart"
            checks.append(Check(name, "NOT the target's law", found, None))
        else:
            checks.append(Check(name, "the target's law", found, is_same if drafted[name] else None))
    return checks
