"""`python -m bench quality`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench import pair as flags
from bench.machine import describe_machine
from bench.pair import Pair
from bench.policies import ADASD, ALONE, GOODPUT, VANILLA, chosen
from bench.prompts import GSM8K_20, HUMANEVAL_20, Prompt, read_prompts
from bench.quality.lossless import COUPLED, COUPLED_POLICY, Check, Policies, lossless, same_laws, same_texts
from bench.quality.measures import HUMANEVAL, Estimate, estimates, values_of
from bench.quality.run import Asking, Judge, answer_all, prepared
from bench.quality.sandbox import why_not
from bench.quality.services import Services, serving
from bench.quality.tables import lossless_table, quality_table
from bench.record import check_writable, write_json
from bench.terminal import one_line_errors, stdout

_POLICIES = [ALONE, VANILLA, ADASD, "AdaSD v2", "distance under 0.32", "accept rule only", GOODPUT]


@dataclass(frozen=True, slots=True)
class _Found:
    """All about one temperature."""

    temperature: float
    values: dict[str, dict[str, list[float]]]
    estimates: dict[str, dict[str, Estimate]]
    checks: list[Check]

    def as_json(self) -> dict[str, Any]:
        return {
            "temperature": self.temperature,
            "policies": {
                name: {"measures": {measure: one.as_json() for measure, one in measures.items()}}
                for name, measures in self.estimates.items()
            },
            "values": self.values,
            "lossless": [asdict(check) for check in self.checks],
        }


def quality(
    data: flags.Data = None,
    count: Annotated[int, typer.Option(min=1, help="Most prompts to take of each file, from the first.")] = 20,
    max_tokens: Annotated[int, typer.Option(min=2, help="Most tokens of each completion.")] = 256,
    temperature: Annotated[list[float] | None, typer.Option(min=0.0, help="0 is greedy; may be repeated.")] = None,
    policy: Annotated[list[str] | None, typer.Option(help="Only this policy; may be repeated.")] = None,
    samples: Annotated[
        int, typer.Option(min=1, help="Above temperature 0: samples a side and prompt for each test of a law.")
    ] = 200,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Completions at once.")] = 8,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 where a lossless policy is not.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampling.")] = 0,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write what was measured to this file.")] = None,
    target_model: flags.TargetModel = "embedded:smollm2",
    draft_model: flags.DraftModel = "embedded:smollm2-draft",
    dtype: flags.Dtype = "bfloat16",
    draft_weights: flags.DraftWeights = "full",
    threads: flags.Threads = None,
) -> None:
    """What policies cost in quality: right answers, likelihood under the target, and whether lossless ones are.

    Programs that a model writes are run in a sandbox; where there is none they are not run.
    """
    with one_line_errors():
        policies = chosen(policy or _POLICIES)
        prompts = prepared(prompt for path in data or (GSM8K_20, HUMANEVAL_20) for prompt in read_prompts(path, count))
        if json is not None:
            check_writable(json)
        degrees = temperature or [0.0]
        pair = Pair(target_model, draft_model, dtype, draft_weights=draft_weights, threads=threads)
        not_measured = {}
        if any(prompt.dataset == "humaneval" for prompt in prompts) and (reason := why_not()):
            not_measured[HUMANEVAL] = reason
        judge = Judge(runs_programs=not not_measured)
        console = stdout()
        console.print(describe_machine())
        console.print(f"{pair}; {len(prompts)} prompts, at most {max_tokens} tokens each")
        for measure, reason in not_measured.items():
            console.print(f"{measure} is not measured: {reason}")
        found = []
        with serving(pair) as services:
            for degree in degrees:
                asking = Asking(max_tokens, degree, seed, parallel)
                with Console(stderr=True).status(f"temperature {degree:g}"):
                    found.append(_measure(services, prompts, policies, asking, judge, pair.dtype, samples))
                _show(console, found[-1])
        if json is not None:
            own = {
                "data": [path.name for path in data or ()], "count": count, "max_tokens": max_tokens,
                "temperature": degrees, "policy": list(policies), "samples": samples, "parallel": parallel,
                "seed": seed,
            }  # fmt: skip
            first, *others = (each.as_json() for each in found)
            document = first | {"other_temperatures": others, "not_measured": not_measured}
            write_json(json, "quality", options=pair.options() | own, data=document)
    if check and any(one.holds is False for each in found for one in each.checks):
        raise typer.Exit(1)


def _measure(
    services: Services,
    prompts: list[Prompt],
    policies: Policies,
    asking: Asking,
    judge: Judge,
    dtype: str,
    samples: int,
) -> _Found:
    greedy, is_exact = asking.temperature == 0, dtype == "float32"
    asked = policies if greedy else {**policies, COUPLED: COUPLED_POLICY}
    answers = answer_all(services, prompts, asked, asking, judge)
    promising = lossless(policies) if greedy else [COUPLED]
    checks = [same_texts(name, answers, is_exact=is_exact) for name in promising]
    if not greedy:
        checks += same_laws(services, prompts, policies, asking, samples)
    values = values_of({name: answers[name] for name in policies})
    return _Found(asking.temperature, values, estimates(values), checks)


def _show(console: Console, found: _Found) -> None:
    console.print(f"\ntemperature {found.temperature:g}; intervals of 95 %, so that one in twenty misses")
    console.print(quality_table(found.estimates))
    if found.checks:
        console.print()
        console.print(lossless_table(found.checks))
