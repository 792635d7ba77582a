"""Completes prompts by several policies, and finds out what each answer is worth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from bench.completions import complete, request_for
from bench.prompts import Prompt
from bench.quality.answers import INSTRUCTION, final_number, is_exact
from bench.quality.programs import STOPS, program
from bench.quality.sandbox import Outcome, run_program
from bench.quality.scoring import Score
from bench.quality.services import Services
from tandem.cli.complete import Completion
from tandem.v1 import completion_pb2, policy_pb2

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Answer:
    """is_right: None where there is nothing to tell it by."""

    prompt: Prompt
    completion: Completion
    score: Score
    is_right: bool | None


@dataclass(frozen=True, slots=True)
class Asking:
    """How completions are asked for. parallel: how many at once; texts do not depend on it but for the rounding of
    bfloat16, in which a step's numbers depend a little on what else is in it."""

    max_tokens: int
    temperature: float
    seed: int
    parallel: int


class Judge:
    """Tells right answers. runs_programs: whether completions of HumanEval are run."""

    def __init__(self, *, runs_programs: bool) -> None:
        self._runs_programs = runs_programs
        self._passes: dict[str, bool] = {}  # policies often write the same

    def is_right(self, prompt: Prompt, text: str) -> bool | None:
        """None where nobody can tell."""
        if prompt.dataset == "gsm8k":
            return is_exact(text, str(prompt.line["answer"]))
        if prompt.dataset == "humaneval" and self._runs_programs:
            return self._is_passed(program(prompt.line, text))
        return None

    def _is_passed(self, source: str) -> bool:
        if source not in self._passes:
            self._passes[source] = run_program(source).outcome is Outcome.PASSED
        return self._passes[source]


def prepared(prompts: Iterable[Prompt]) -> list[Prompt]:
    """With what is said beside a question. Raises ValueError for a problem that no answer could be checked against."""
    return [_prepared(prompt) for prompt in prompts]


def _prepared(prompt: Prompt) -> Prompt:
    if prompt.dataset == "gsm8k":
        if final_number(str(prompt.line["answer"])) is None:
            raise ValueError(f"the answer of gsm8k problem {prompt.name} has no number")
        return replace(prompt, text=prompt.text + INSTRUCTION)
    if prompt.dataset == "humaneval":
        for field in ("test", "entry_point"):
            if not isinstance(prompt.line[field], str):
                raise ValueError(f"`{field}` of humaneval problem {prompt.name} is no text")
    return prompt


def request(
    prompt: Prompt, policy: policy_pb2.SpeculationPolicy, asking: Asking, number: int
) -> completion_pb2.CompleteRequest:
    """For the prompt of that number, whose seed is the same under every policy."""
    made = request_for(
        prompt,
        policy,
        max_tokens=asking.max_tokens,
        temperature=asking.temperature,
        seed=asking.seed + number,
        ignore_end=False,
    )
    if prompt.dataset == "humaneval":
        made.stop.extend(STOPS)
    return made


def answer_all(
    services: Services,
    prompts: Sequence[Prompt],
    policies: Mapping[str, policy_pb2.SpeculationPolicy],
    asking: Asking,
    judge: Judge,
) -> dict[str, list[Answer]]:
    """Answers of each policy, in the order of the prompts. Raises TandemError or ValueError."""
    # A prompt's policies come one after another: what the target has computed of it is there for all.
    jobs = [(number, name) for number in range(len(prompts)) for name in policies]

    def answer(job: tuple[int, str]) -> Answer:
        number, name = job
        prompt = prompts[number]
        completion = complete(services.client, request(prompt, policies[name], asking, number))
        score = services.score(prompt, completion, asking.temperature)
        return Answer(prompt, completion, score, judge.is_right(prompt, completion.text))

    found: dict[str, list[Answer]] = {name: [] for name in policies}
    for (_, name), one in zip(jobs, in_parallel(answer, jobs, asking.parallel), strict=True):
        found[name].append(one)
    return found


def in_parallel(function: Callable[[_Item], _Result], items: Sequence[_Item], parallel: int) -> list[_Result]:
    """Results in the order of `items`. Raises what one of them raises first, and begins no further ones then."""
    with ThreadPoolExecutor(parallel) as pool:
        try:
            return list(pool.map(function, items))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
