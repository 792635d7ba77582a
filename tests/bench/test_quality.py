"""Answers are judged as defined, texts are scored by the target itself, and a broken promise is found."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
import torch

from bench.plots.forms.document import read_document
from bench.policies import ALONE, VANILLA
from bench.prompts import GSM8K_20, HUMANEVAL_20, Prompt, read_prompts
from bench.quality.answers import final_number, is_exact
from bench.quality.laws import ERROR_RATE, Counts, outcomes, same_law
from bench.quality.lossless import CONTROL, COUPLED, judged, same_texts
from bench.quality.measures import GSM8K, HUMANEVAL, LET_THROUGH, estimates, values_of
from bench.quality.programs import cut
from bench.quality.run import Answer, Judge, prepared
from bench.quality.sandbox import why_not
from bench.quality.scoring import Score, Scorer
from tandem.cli.complete import Completion
from tests.cli.conftest import models as models  # a fixture
from tests.cli.processes import environment
from tests.support.tiny import tiny_llama
from tests.support.tokens import byte_tokenizer
from tests.support.trio import policy, trio

ROOT = Path(__file__).parents[2]
LOSSY = "distance under 0.32"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 2 and 3 make 5.", "5"), ("#### 18", "18"), ("**$70,000.50**", "70000.5"), ("it is -5 degrees", "-5"),
        ("-$5", "-5"), ("$-5", "-5"), ("\u22127", "-7"), ("10-4", "4"), ("(5)-3", "3"), ("5 - 3", "3"), ("50%", "50"),
        ("50%-60%", "60"), ("1/2", "2"), ("1,2", "2"), (".5", "0.5"), ("a list:\n- 3 apples", "3"), ("US$ 12", "12"),
        ("--5", "-5"), ("1,234,567.89 dollars", "1234567.89"), ("3:45", "45"), ("18\n", "18"),
    ],
)  # fmt: skip
def test_the_last_number_of_an_answer(text: str, number: str) -> None:
    assert final_number(text) == Decimal(number)


def test_answers_are_compared_as_numbers() -> None:
    assert is_exact("It is $18.00.", "#### 18") and is_exact("70,000", "#### 70000")
    assert not is_exact("18.5", "#### 18") and not is_exact("-18", "#### 18") and not is_exact("none", "#### 18")


def test_the_reference_answers_of_the_data_set_are_exact() -> None:
    for prompt in prepared(read_prompts(GSM8K_20)):
        reference = prompt.line["answer"]
        assert "####" in prompt.text and prompt.text.startswith(prompt.line["question"])
        assert str(final_number(reference)) == reference.split("####")[1].strip().replace(",", "")


def test_a_problem_without_an_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="gsm8k problem 7"):
        prepared([Prompt("gsm8k", "7", "How many?", line={"answer": "none"})])
    with pytest.raises(ValueError, match="`test` of humaneval problem 3"):
        prepared([Prompt("humaneval", "3", "def f():", line={"test": 5, "entry_point": "f"})])


@pytest.mark.parametrize("behind", ["\ndef g():\n", "\nprint(f(1))", "\n# that was it", "\nif True:", "\nclass C:"])
def test_a_completion_is_cut_behind_its_function(behind: str) -> None:
    body = "    if x:\n        # half\n        print(x)\n    return x\n"
    assert cut(body + behind + "\nimport os\n") == body
    assert cut(body) == body


@pytest.mark.skipif(why_not() is not None, reason="there is no sandbox here")
def test_programs_are_judged_by_their_tests_and_only_where_they_may_be_run() -> None:
    (problem,) = read_prompts(HUMANEVAL_20, 1)
    right, judge = problem.line["canonical_solution"], Judge(runs_programs=True)
    assert judge.is_right(problem, right + "\nprint(1/0)") is True and judge.is_right(problem, "    return 1") is False
    assert Judge(runs_programs=False).is_right(problem, right) is None
    assert judge.is_right(Prompt("text", "1", "Hello"), "18") is None


@pytest.mark.parametrize("temperature", [0.0, 0.7])
async def test_scores_are_the_models_own(temperature: float) -> None:
    """Over more than two blocks, against transformers on the same weights."""
    source = random.Random(3)
    prompt, text = ([source.randrange(64) for _ in range(count)] for count in (7, 150))
    async with trio(tiny_llama(3), None, byte_tokenizer(64)) as services:
        with closing(Scorer(services.target.address)) as scorer:
            score = await asyncio.to_thread(scorer.score, prompt, text, temperature)
            single = await asyncio.to_thread(scorer.score, prompt, text[:1], temperature)
    logits = tiny_llama(3).model(torch.tensor([prompt + text])).logits[0, len(prompt) - 1 : -1]
    law = torch.log_softmax(logits / (temperature or 1.0), -1)
    own = law.gather(-1, torch.tensor(text).unsqueeze(1)).squeeze(1)
    assert len(score.log_p) == len(score.largest) == len(text)
    torch.testing.assert_close(torch.tensor(score.log_p), own, atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.tensor(score.largest), law.amax(-1), atol=1e-4, rtol=0)
    assert single.log_p[0] == pytest.approx(score.log_p[0], abs=1e-4)
    assert score.negative_log_likelihood == pytest.approx(-float(own.mean()), abs=1e-4)
    assert score.agreement == pytest.approx(float((own == law.amax(-1)).float().mean()))


async def test_what_the_target_writes_alone_agrees_with_it_and_other_texts_do_not() -> None:
    prompt = [5, 6, 7]
    async with trio(tiny_llama(4), tiny_llama(4, noise=0.4), byte_tokenizer(64)) as services:
        alone = await services.complete(prompt, max_tokens=80, audit=True)
        loose = await services.complete(prompt, policy=policy("fixed", "jsd", threshold=1.0), max_tokens=80)
        with closing(Scorer(services.target.address)) as scorer:
            own = await asyncio.to_thread(scorer.score, prompt, alone.token_ids, 0.0)
            other = await asyncio.to_thread(scorer.score, prompt, loose.token_ids, 0.0)
    assert own.agreement == 1
    accounted = [token.target_log_probability for token in alone.tokens]
    assert list(own.log_p) == pytest.approx(accounted, abs=1e-4)
    # Fed a text that the draft had a say in, the target would have gone on otherwise where tokens were let through.
    report = loose.finish.speculation
    assert report.lossy_tokens > 0
    assert other.agreement == pytest.approx(1 - report.lossy_tokens / 80)


def answer(tokens: list[int], *, is_right: bool | None = None, drafted: int = 5, let_through: int = 0) -> Answer:
    completion = Completion(token_ids=tokens)
    completion.finish.usage.completion_tokens = len(tokens)
    completion.finish.speculation.drafted_tokens = drafted
    completion.finish.speculation.lossy_tokens = let_through
    return Answer(Prompt("gsm8k", "1", "?"), completion, Score((-1.0, -3.0), (-1.0, -1.0)), is_right)


def test_differences_are_paired_and_judged_by_their_interval() -> None:
    def given(rights: list[bool], through: int = 0) -> list[Answer]:
        return [answer([1, 2, 3, 4], is_right=right, let_through=through) for right in rights]

    right = [True] * 12
    few = [True] * 11 + [False]
    values = values_of({ALONE: given(right), "a little": given(few, 1), "much": given([False] * 12)})
    found = estimates(values)
    assert HUMANEVAL not in values[ALONE] and values["a little"][LET_THROUGH] == [0.25] * 12
    assert values[ALONE]["negative log-likelihood"] == [2.0] * 12
    assert values[ALONE]["agreement with greedy"] == [0.5] * 12
    assert found[ALONE][GSM8K].within_noise is None and found[ALONE][GSM8K].against_alone is None
    assert found["a little"][GSM8K].within_noise is True and found["much"][GSM8K].within_noise is False
    assert found["much"][GSM8K].interval.high > 0.2  # Wilson's: none of twelve does not show that it is none ever
    difference = found["a little"][GSM8K].against_alone
    assert difference is not None and difference.middle == pytest.approx(-1 / 12)
    assert found["a little"][LET_THROUGH].against_alone is None


def test_five_prompts_show_no_difference() -> None:
    found = estimates({ALONE: {GSM8K: [1.0] * 5}, "other": {GSM8K: [0.0] * 5}})
    assert found["other"][GSM8K].within_noise is None and found["other"][GSM8K].against_alone is not None


def sampled(law: list[float], count: int, seed: int) -> Counts:
    drawn = random.Random(seed).choices(range(len(law)), law, k=count)
    return Counter((token,) for token in drawn)


LAW = [0.4, 0.3, 0.15, 0.1, 0.03, 0.02]


def test_samples_of_one_law_are_told_apart_as_seldom_as_stated() -> None:
    chances = [same_law([(sampled(LAW, 80, 2 * i), sampled(LAW, 80, 2 * i + 1))], seed=i) for i in range(150)]
    # Of 150 independent tests that are wrong one time in ten, 31 or more are in one case out of 20,000.
    assert 3 < sum(chance <= 0.1 for chance in chances) < 31
    assert min(chances) > ERROR_RATE / 150 / 10


def test_samples_of_two_laws_are_told_apart_and_prompts_add_up() -> None:
    other = [0.28, 0.42, 0.15, 0.1, 0.03, 0.02]
    one = [(sampled(LAW, 150, seed), sampled(other, 150, seed + 100)) for seed in range(12)]
    assert same_law([(sampled(LAW, 150, 1), sampled([0.05, 0.3, 0.3, 0.35], 150, 2))]) < 1e-3
    assert same_law(one) < 1e-3 < same_law(one[:1])
    # What only one side ever says tells them apart, too, and rare outcomes are one outcome.
    assert same_law([(Counter({(1,): 50}), Counter({(2,): 50}))]) < 1e-3
    assert outcomes(Counter({(1,): 50, (2,): 1}), Counter({(1,): 50, (3,): 2})) == 2


def test_a_broken_promise_is_found() -> None:
    same = [sampled(LAW, 200, 1)]
    counts = {ALONE: [sampled(LAW, 200, 2)], "kept": same, "broken": [sampled(LAW[::-1], 200, 3)], "idle": same}
    counts[CONTROL] = counts["broken"]
    found = {check.policy: check for check in judged(counts, Counter(kept=9, broken=9), 0.005, 200)}
    assert found["kept"].holds is True and found["broken"].holds is False
    assert found["idle"].holds is None  # nothing was drafted, so nothing was tested
    assert "told apart" in found[CONTROL].found and found[CONTROL].holds is None
    blind = judged({ALONE: counts[ALONE], CONTROL: same}, Counter(), 0.005, 200)
    assert "show little" in blind[0].found


def test_texts_that_differ_break_a_promise_where_nothing_rounds() -> None:
    answers = {ALONE: [answer([1, 2]), answer([3])], "kept": [answer([1, 2]), answer([3])]}
    answers["broken"] = [answer([1, 2]), answer([4])]
    answers["idle"] = [answer([1, 2], drafted=0), answer([3], drafted=0)]
    assert same_texts("kept", answers, is_exact=True).holds is True
    broken = same_texts("broken", answers, is_exact=True)
    assert broken.holds is False and "1 of 2 texts equal" in broken.found
    assert same_texts("broken", answers, is_exact=False).holds is None
    assert same_texts("idle", answers, is_exact=True).holds is None


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", "quality", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment())


def test_the_command_measures_real_services(models: Path, tmp_path: Path) -> None:
    """Every token of these models is a byte: prompts are short, so that they are quick."""
    data, record = tmp_path / "questions.jsonl", tmp_path / "record.json"
    lines = [{"question": f"What is {number} and {number}?", "answer": f"#### {2 * number}"} for number in range(6)]
    problem = {"prompt": "def f(x):\n", "entry_point": "f", "test": "def check(f):\n    assert f(1) == 1\n"}
    data.write_text("\n".join(map(json.dumps, [*lines, problem])))
    done = bench(
        "--target-model", models / "target", "--draft-model", models / "draft", "--dtype", "float32", "--threads", 1,
        "--data", data, "--max-tokens", 24, "--temperature", 0, "--temperature", 1, "--samples", 60,
        "--policy", VANILLA, "--policy", LOSSY, "--check", "--json", record,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if "|" in line]
    verdicts = {(row[0], row[1]): row[-1] for row in rows if len(row) == 4}
    assert verdicts[VANILLA, "the target's own text"] == "holds"
    assert verdicts[COUPLED, "the target's own text"] == "holds"
    assert verdicts[VANILLA, "the target's law"] == verdicts["block, 5", "the target's law"] == "holds"
    (control,) = (row for row in rows if row[0] == CONTROL)
    assert control[2].endswith("told apart") and "not told" not in control[2]
    document = read_document(record)  # as the report reads it
    assert document.data is not None and document.options["temperature"] == [0.0, 1.0]
    content = json.loads(record.read_text())["data"]
    assert content["temperature"] == 0 and [each["temperature"] for each in content["other_temperatures"]] == [1]
    assert list(content["values"]) == [ALONE, VANILLA, LOSSY]
    assert len(content["values"][ALONE][GSM8K]) == 6 and len(content["values"][ALONE]["agreement with greedy"]) == 7
    assert (HUMANEVAL in content["values"][ALONE]) == (not content["not_measured"])
    measures = content["policies"][LOSSY]["measures"]
    # In float32 every other token is the target's own likeliest.
    assert measures[LET_THROUGH]["middle"] > 0
    assert measures["agreement with greedy"]["middle"] == pytest.approx(1 - measures[LET_THROUGH]["middle"])
    exact = content["policies"][VANILLA]["measures"]["negative log-likelihood"]
    assert exact["against_alone"]["middle"] == pytest.approx(0, abs=1e-4)
    assert content["policies"][ALONE]["measures"]["agreement with greedy"]["low"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--policy", "best"), "there is no policy 'best'"),
        (("--data", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--json", "/nowhere/at/all.json"), "/nowhere/at does not exist"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], said: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1
