"""The goodput rule finds the block length that pays, in simulated pairs whose costs and acceptance are known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.limits_message import limits_message
from orchestrator.stopping import Experience, Goodput, Limits, RoundCosts, RoundOutcome
from orchestrator.stopping.costs import Costs
from orchestrator.stopping.expectation import AcceptanceCurve, OwnCurve, knots
from tandem.block_limits import Limiter
from tandem.step_times import StepTimes

LENGTHS = (1, 2, 3, 5, 8, 12, 20)


@dataclass
class Pair:
    """A pair in milliseconds. acceptance: chance by entropy; entropies: drawn for each candidate. step: time of a
    target's step by its tokens, `sequences` of them alike."""

    acceptance: Callable[[float], float]
    entropies: Callable[[random.Random], float]
    draft: float
    step: Callable[[float], float]
    other: float
    sequences: int = 1
    noise: float = 0.1
    source: random.Random = field(default_factory=lambda: random.Random(7))

    def block(self, limits: Limits) -> RoundOutcome:
        """Drafts and verifies as the services do."""
        limiter, entropies = Limiter(limits_message(limits, limits.max_tokens)), list[float]()
        while len(entropies) < limits.max_tokens:
            entropy = self.entropies(self.source)
            entropies.append(entropy)
            if limiter.after(entropy, -entropy) is not None:
                break
        fates = [self.source.random() < self.acceptance(entropy) for entropy in entropies]
        accepted = next((index for index, fate in enumerate(fates) if not fate), len(fates))
        decided = fates[: accepted + 1]
        return RoundOutcome(
            drafted=len(entropies), accepted=accepted, cap=limits.max_tokens, entropies=tuple(entropies),
            probabilities=tuple(math.exp(-entropy) for entropy in entropies), matched=tuple(decided),
            acceptances=tuple(map(float, decided)), costs=self._costs(len(entropies)),
        )  # fmt: skip

    def alone(self) -> RoundOutcome:
        return RoundOutcome(0, 0, 0, (), (), (), costs=self._costs(0))

    def seconds(self, outcome: RoundOutcome) -> float:
        """What it took on the average."""
        target = self.step(self.sequences * (outcome.drafted + 1))
        return (outcome.drafted * self.draft + target + (self.other if outcome.drafted else 0)) / 1e3

    def _costs(self, drafted: int) -> RoundCosts:
        tokens = self.sequences * (drafted + 1)
        shake = lambda: math.exp(self.source.gauss(0, self.noise)) / 1e3  # noqa: E731
        return RoundCosts(
            draft_seconds=drafted * self.draft * shake(), draft_steps=drafted,
            target_seconds=self.step(tokens) * shake(), target_queue_seconds=0.0,
            target_tokens=tokens, target_sequences=self.sequences,
            other_seconds=self.other * shake() if drafted else 0.0,
        )  # fmt: skip

    def goodput_of(self, length: int, rounds: int = 2000) -> float:
        """Tokens per second of a fixed length; 0 is the target alone."""
        outcomes = [self.block(Limits(length)) if length else self.alone() for _ in range(rounds)]
        return sum(each.accepted + 1 for each in outcomes) / sum(map(self.seconds, outcomes))


def run(pair: Pair, rule: Goodput, tokens: int) -> float:
    """Tokens per second."""
    made, seconds = 0, 0.0
    while made < tokens:
        limits = rule.limits()
        for outcome in [pair.alone() for _ in range(limits.alone_tokens)] or [pair.block(limits)]:
            rule.update(outcome)
            made += outcome.accepted + 1
            seconds += pair.seconds(outcome)
    return made / seconds


def flat(acceptance: float) -> Callable[[float], float]:
    return lambda entropy: acceptance


def sure_or_not(source: random.Random) -> float:
    return source.choice([0.02, 0.1, 0.3, 2.5])


def memory_bound(tokens: float) -> float:
    return 70 + 1.0 * tokens


def compute_bound(tokens: float) -> float:
    return 60 + 9.0 * tokens


def in_tiles(tokens: float) -> float:
    return 40 + 30 * math.ceil(tokens / 4)


COSTS = {
    "large target": (9.0, memory_bound, 3.0, 1),
    "equal draft": (70.0, memory_bound, 3.0, 1),
    "dear wire": (4.0, memory_bound, 60.0, 1),
    "compute": (9.0, compute_bound, 3.0, 1),
    "steps": (5.0, in_tiles, 3.0, 1),
    "eight callers": (15.0, memory_bound, 3.0, 8),
    "eight callers, compute": (15.0, compute_bound, 3.0, 8),
}


@pytest.mark.parametrize("costs", COSTS)
def test_it_is_as_good_as_the_best_fixed_length_and_as_none(costs: str) -> None:
    """Candidates alike: nothing but the length can be chosen. Each cost is measured with an error of 10 %, and the
    rule's own learning is counted; 3,000 tokens have a standard error of up to 2 %."""
    draft, step, other, sequences = COSTS[costs]
    ratios = []
    for acceptance in (0.1, 0.4, 0.66, 0.83, 0.93, 1.0):
        pair = Pair(flat(acceptance), lambda source: 0.5, draft, step, other, sequences)
        best = max(pair.goodput_of(length, 1000) for length in (0, *LENGTHS))
        experience = Experience()
        experience.costs.sessions = sequences
        ratios.append(run(pair, Goodput(experience=experience), 3000) / best)
    assert min(ratios) >= 0.92 and math.prod(ratios) ** (1 / len(ratios)) >= 0.97, ratios


@pytest.mark.parametrize(("costs", "least"), [("large target", 1.1), ("steps", 1.0), ("eight callers", 0.97)])
def test_it_beats_every_fixed_length_where_entropy_tells(costs: str, least: float) -> None:
    """Not where many draft together: their blocks end together."""
    draft, step, other, sequences = COSTS[costs]
    pair = Pair(lambda entropy: 0.97 if entropy < 1 else 0.3, sure_or_not, draft, step, other, sequences)
    best = max(pair.goodput_of(length) for length in (0, *LENGTHS))
    assert run(pair, Goodput(), 4000) >= least * best


def test_what_one_completion_learnt_the_next_one_knows() -> None:
    pair = Pair(flat(0.9), lambda source: 0.1, 9.0, memory_bound, 3.0)
    experience = Experience()
    run(pair, Goodput(experience=experience, key="k"), 500)
    first = Goodput(experience=experience, key="k").limits()
    assert first.max_tokens == 20 and first.min_survival
    assert Goodput().limits() == Limits(max_tokens=5)


def test_no_draft_is_asked_for_less_than_nothing() -> None:
    """Where a larger step happened to take less: a draft refuses limits below 0, and would be lost."""
    experience = Experience()
    experience.costs.sessions = 8
    pair = Pair(flat(0.9), lambda source: 0.1, 9.0, lambda tokens: 80 - tokens / 100, 3.0, sequences=8, noise=0.0)
    rule, asked = Goodput(experience=experience), list[float]()
    for _ in range(50):
        limits = rule.limits()
        asked += limits.min_survival
        rule.update(pair.block(limits) if limits.max_tokens else pair.alone())
    assert asked and min(asked) >= 0


def test_speculation_stops_under_load_and_comes_back() -> None:
    """The same acceptance: only what verification costs all the others changes."""
    pair = Pair(flat(0.6), lambda source: 0.5, 9.0, lambda tokens: 50 + 12 * tokens, 3.0, sequences=1)
    experience = Experience()
    rule = Goodput(experience=experience)

    def share_alone(tokens: int) -> float:
        alone = made = 0
        while made < tokens:
            limits = rule.limits()
            alone_now = [pair.alone() for _ in range(limits.alone_tokens)]
            for outcome in alone_now or [pair.block(limits)]:
                rule.update(outcome)
                made += outcome.accepted + 1
            alone += limits.alone_tokens
        return alone / made

    assert share_alone(500) < 0.3
    pair.sequences = experience.costs.sessions = 16
    share_alone(500)
    assert share_alone(500) > 0.8
    pair.sequences = experience.costs.sessions = 1
    share_alone(500)
    assert share_alone(500) < 0.3


def test_it_looks_at_distributions_only() -> None:
    """Whatever the drawn tokens' probabilities are, the same entropies end the block at the same place."""
    pair = Pair(flat(0.8), sure_or_not, 9.0, memory_bound, 3.0)
    rule = Goodput()
    run(pair, rule, 300)
    message = limits_message(rule.limits(), 20)
    ends = set()
    for log_probability in (0.0, -1.0, -9.0):
        limiter, source = Limiter(message), random.Random(1)
        ends.add(next(index for index in range(20) if limiter.after(sure_or_not(source), log_probability)))
    assert len(ends) == 1


@given(st.lists(st.tuples(st.integers(1, 300), st.floats(1e-3, 10)), min_size=1, max_size=60))
@example([(1, 1.0), (2, 0.25), (2, 1.0), (3, 5.0)])
@example([(2, 0.5), (3, 0.25), (3, 1.0), (4, 3.0)])
def test_a_larger_step_is_never_thought_quicker(measured: list[tuple[int, float]]) -> None:
    times = StepTimes()
    for tokens, seconds in measured:
        times.add(tokens, seconds)
    found = [times(tokens) for tokens in range(1, 400)]
    assert all(one <= other * (1 + 1e-9) for one, other in zip(found, found[1:], strict=False))
    assert found[0] > 0


def test_a_step_that_was_measured_takes_what_it_took_and_others_what_can_be_hoped() -> None:
    times = StepTimes()
    times.add(4, 0.2)
    assert [times(tokens) for tokens in (1, 2, 4, 99)] == pytest.approx([0.05, 0.1, 0.2, 0.2])
    times.add(12, 0.3)
    assert [times(tokens) for tokens in (2, 4, 8, 12, 20)] == pytest.approx([0.175, 0.2, 0.25, 0.3, 0.4])


def test_a_size_that_has_not_occurred_for_ever_is_known_still() -> None:
    """Its weight underflows: a service runs for weeks."""
    times = StepTimes()
    times.add(48, 0.2)
    times._steps += 10**9
    for seconds in (0.06, 0.07, 0.06):
        times.add(1, seconds)
    assert 0.05 < times(1) < 0.08 and times(48) > times(1)


def test_noise_makes_no_steps_and_true_steps_stay() -> None:
    source = random.Random(5)
    even, tiles = StepTimes(), StepTimes()
    for _ in range(200):
        tokens = source.choice([1, 2, 3, 4, 5, 6, 8, 12])
        even.add(tokens, (70 + tokens) * math.exp(source.gauss(0, 0.1)))
        tiles.add(tokens, in_tiles(tokens) * math.exp(source.gauss(0, 0.1)))
    rises = [even(tokens + 1) - even(tokens) for tokens in range(1, 12)]
    assert max(rises) < 5 and even(12) == pytest.approx(82, rel=0.05)
    assert tiles(4) - tiles(1) < 12 and tiles(5) - tiles(4) > 12


@given(st.lists(st.tuples(st.floats(0, 8), st.floats(0, 1)), max_size=80))
def test_more_entropy_never_promises_more(seen: list[tuple[float, float]]) -> None:
    curve = OwnCurve(AcceptanceCurve())
    for entropy, acceptance in seen:
        curve.add(entropy, acceptance)
    values = curve.values()
    assert len(values) == len(knots()) and all(0 <= value <= 1 for value in values)
    assert all(one >= other - 1e-12 for one, other in zip(values, values[1:], strict=False))
    assert 0 <= curve.mean <= 1


def test_what_is_hidden_behind_the_target_costs_nothing() -> None:
    """A draft step of 10 ms, its wire 30 ms, a target's step of 100 ms for 6 tokens and less for fewer, 4 ms else."""
    costs, foreseen = Costs(), RoundCosts(0.0, 0, 0.1, 0.0, 6, 1, 0.004, foreseen=True)
    asked = RoundCosts(0.05, 5, 0.1, 0.0, 6, 1, 0.034, draft_wire_seconds=0.03)
    costs.learn(asked, drafted=5)
    assert costs.round_seconds(5) == pytest.approx(0.05 + 0.03 + 0.1 + 0.004)
    assert costs.round_seconds(5, overlaps=True) == pytest.approx(costs.round_seconds(5))  # nothing was foreseen yet
    for _ in range(200):
        costs.learn(foreseen, drafted=5)
    assert costs.round_seconds(5, overlaps=True) == pytest.approx(0.1 + 0.004, rel=1e-3)
    # Longer than the target's step: all that lies over it.
    assert costs.round_seconds(10, overlaps=True) == pytest.approx(0.1 + 0.03 + 0.004, rel=1e-2)
    assert costs.round_seconds(5) == pytest.approx(0.05 + 0.03 + 0.1 + 0.004)
    for _ in range(200):
        costs.learn(replace(asked, foreseen=False), drafted=5)
    assert costs.round_seconds(5, overlaps=True) == pytest.approx(0.05 + 0.03 + 0.1 + 0.004, rel=1e-2)


def test_the_curve_is_calibrated() -> None:
    """After 4,000 candidates, of which 1,000 are remembered: a standard error of .011 at a knot; five are allowed."""
    source, curve = random.Random(3), AcceptanceCurve()
    for _ in range(4000):
        entropy = source.choice([0.0, 0.8, 2.7])
        curve.add(entropy, float(source.random() < math.exp(-entropy)))
    for entropy in (0.0, 0.8, 2.7):
        assert curve.at(entropy) == pytest.approx(math.exp(-entropy), abs=0.055 + 0.02)


def test_a_harder_text_is_told_from_the_pair() -> None:
    source, shared = random.Random(3), AcceptanceCurve()
    for _ in range(3000):
        shared.add(0.5, float(source.random() < 0.9))
    own = OwnCurve(shared)
    before = own.mean
    for _ in range(60):
        own.add(0.5, float(source.random() < 0.5))
    assert before == pytest.approx(0.9, abs=0.03) and own.mean == pytest.approx(0.5, abs=0.15)


def test_waiting_counts_as_part_of_verifying() -> None:
    costs = Costs()
    for _ in range(20):
        costs.learn(RoundCosts(0.05, 5, 0.1, 0.05, 6, 1, 0.004), drafted=5)
    assert costs.round_seconds(5) == pytest.approx(0.05 + 0.15 + 0.004)
    assert costs.is_known and not Costs().is_known
