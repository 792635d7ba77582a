"""The bench of a draft: its arithmetic by hand, its agreement on models that are known, the command from end to end."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from bench.__main__ import app
from bench.decode.run import Sums
from bench.draft import steps, texts
from bench.draft.agreement import Along, expected, measure, summed, walked
from bench.draft.figures import agreement_figures, best_policy, speed_figures, step_figure
from bench.draft.metrics import fit, read_metrics
from bench.draft.parts import FIGURES, Part, left_out
from bench.draft.policies import lossless
from bench.draft.steps import Steps
from bench.draft.texts import Asked
from bench.goals import Verdict, falls_short, judge, read_goals
from bench.policies import ALONE
from bench.record import read_json
from tandem.inference.runner import ModelRunner
from tests.bench.test_decode import _finish
from tests.cli.conftest import models as models  # a fixture
from tests.support.tiny import can_say, tiny_llama

ASKED = [Asked("one", [1, 2, 3]), Asked("two", [9, 8]), Asked("two", [5] * 20)]
LENGTH = 24
WHOLE = {"max_tokens": LENGTH, "ends": frozenset[int](), "seed": 0}


def runner(noise: float = 0.0, said: list[int] | None = None) -> ModelRunner:
    loaded = tiny_llama(3, noise=noise)
    return ModelRunner(loaded if said is None else can_say(loaded, said), cache_bytes=16 << 20)


def test_rounds_are_walked_as_a_service_would_take_them() -> None:
    same, differs = True, False
    assert walked([[same] * 8], 1) == 2.0  # each round keeps its candidate and adds one
    assert walked([[differs] * 8], 4) == 1.0
    # Rounds begin at 0 (two kept, one added) and at 3 (none kept); at 4 there are too few places left.
    assert walked([[same, same, differs, differs, same, same]], 3) == (3 + 1) / 2
    assert math.isnan(walked([[same, same]], 3))


def test_expected_rounds_are_sums_of_the_chances_to_get_so_far() -> None:
    assert expected([[0.5, 0.5, 0.5]], 2) == pytest.approx(1 + 0.5 + 0.25)
    assert expected([[1.0, 0.0, 1.0]], 2) == pytest.approx(((1 + 1 + 0) + (1 + 0 + 0)) / 2)
    assert expected([[0.3], [0.5, 0.7]], 1) == pytest.approx(1 + (0.3 + 0.5 + 0.7) / 3)
    assert math.isnan(expected([[0.3]], 2))


def test_a_model_agrees_with_itself_and_less_with_a_worse_copy() -> None:
    target = runner()
    same, near, far = (
        summed(measure(target, draft, ASKED, **WHOLE)) for draft in (target, runner(0.05), runner(0.4))
    )
    assert same.greedy == 1 and same.overlap == pytest.approx(1, abs=1e-5) and same.places == 3 * LENGTH
    assert list(same.greedy_rounds) == [2, 3, 5, 9]
    assert 1 > near.greedy > far.greedy > 0 and 1 > near.overlap > far.overlap > 0
    assert near.greedy_rounds[3] > far.greedy_rounds[3] >= 1


def test_agreement_is_that_of_transformers_own_passes() -> None:
    """Text by text, computed again from whole sequences."""
    target, draft = runner(), runner(0.1)
    [along, *_] = measure(target, draft, ASKED, **WHOLE)
    plain = [tiny_llama(3).model, tiny_llama(3, noise=0.1).model]
    prompt = list(ASKED[0].prompt)
    text = texts.answers(target, ASKED, sampled=False, **WHOLE)[0].tokens
    sampled = texts.answers(target, ASKED, sampled=True, **WHOLE)[0].tokens
    with torch.inference_mode():
        rows = [model(input_ids=torch.tensor([[*prompt, *text[:-1]]])).logits[0, 2:] for model in plain]
        assert rows[0].argmax(-1).tolist() == list(text)
        found = rows[1].argmax(-1).tolist()
        assert list(along.matches) == [one == other for one, other in zip(found, text, strict=True)]
        p, q = (model(input_ids=torch.tensor([[*prompt, *sampled[:-1]]])).logits[0, 2:].softmax(-1) for model in plain)
    torch.testing.assert_close(torch.tensor(along.overlaps), torch.minimum(p, q).sum(-1), atol=1e-4, rtol=0)


def test_a_draft_that_cannot_say_a_token_never_agrees_on_it() -> None:
    target = runner()
    said = [token for token in range(64) if token % 2]
    found = measure(target, runner(said=said), ASKED, **WHOLE)
    for along, answer in zip(found, texts.answers(target, ASKED, sampled=False, **WHOLE), strict=True):
        # Where the target's token is the likeliest that the draft can say, they agree: their weights are the same.
        assert list(along.matches) == [token % 2 == 1 for token in answer.tokens]
        assert all(0 <= share <= 1 for share in along.overlaps)


def test_answers_end_where_the_model_ends_them() -> None:
    target = runner()
    whole = texts.answers(target, ASKED, sampled=False, **WHOLE)
    end = whole[0].tokens[5]
    cut = texts.answers(target, ASKED, sampled=False, **{**WHOLE, "ends": frozenset([end])})
    for short, long in zip(cut, whole, strict=True):
        at = list(long.tokens).index(end) + 1 if end in long.tokens else LENGTH
        assert list(short.tokens) == list(long.tokens[:at])


def test_sampled_answers_follow_the_seed_and_not_the_batch() -> None:
    target = runner()
    first = texts.answers(target, ASKED, sampled=True, **WHOLE)
    alone = texts.answers(target, ASKED[:1], sampled=True, **WHOLE)
    other = texts.answers(target, ASKED, sampled=True, **{**WHOLE, "seed": 1})
    assert first[0].tokens == alone[0].tokens and first[0].tokens != other[0].tokens


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_steps_are_timed_in_pairs_and_leave_the_cache_as_it_was(temperature: float) -> None:
    target, draft = runner(), runner(said=list(range(0, 64, 3)))
    found = steps.measure(target, draft, temperature=temperature, repetitions=5)
    assert len(found) == 5 and all(each.target > 0 < each.draft for each in found)
    assert target.cache.pool.held == draft.cache.pool.held == 0


def test_figures_are_of_the_worst_step_the_best_policy_and_all_places() -> None:
    alongs = [Along("a", [True, False], [0.25, 0.75]), Along("b", [True] * 6, [1.0] * 6)]
    found = {figure.name: figure for figure in agreement_figures(alongs)}
    step = step_figure({0.0: [Steps(10.0, 1.0)] * 3, 1.0: [Steps(10.0, 2.0)] * 3})
    results = {ALONE: Sums([_finish(1)]), "slow": Sums([_finish(2)]), "fast": Sums([_finish(0.8)])}
    assert best_policy(results) == "fast"
    found |= {each.name: each for each in [step, *speed_figures({0.0: results, 1.0: results})]}
    values = {name: round(figure.measured or 0, 4) for name, figure in found.items()}
    assert values == {
        "greedy_agreement": 0.875, "one_minus_tv": 0.875, "step_over_target": 0.2,
        "speed_over_target_temperature_0": 1.25, "speed_over_target_temperature_1": 1.25,
    }  # fmt: skip
    rows = {row.figure.name: row.verdict for row in judge(found.values(), read_goals("draft-gpu"), {})}
    assert [name for name, verdict in rows.items() if verdict is Verdict.SHORT] == [
        "step_over_target", "speed_over_target_temperature_0"
    ]  # fmt: skip


@pytest.mark.parametrize("column", ["cpu", "gpu"])
def test_what_was_left_out_neither_holds_nor_falls_short(column: str) -> None:
    goals = read_goals(f"draft-{column}")
    assert set(goals) == {name for names in FIGURES.values() for name in names}
    assert not falls_short(judge(left_out([]), goals, {})) and not list(left_out(list(Part)))


def test_policies_are_lossless_and_the_target_alone_is_among_them() -> None:
    for temperature in (0.0, 1.0):
        policies = lossless(temperature)
        assert policies[ALONE].off
        for name, each in policies.items():
            assert name == ALONE or each.accept.WhichOneof("rule") in ("exact", "coupled", "block")


def test_the_fit_of_a_line_is_that_line() -> None:
    tokens = [1000, 10_000, 100_000]
    found = fit(tokens, [0.1 + 0.02 * math.log(each) for each in tokens])
    assert found is not None
    assert (found.a, found.b) == (pytest.approx(0.1), pytest.approx(0.02))
    assert found.predicted == pytest.approx(0.1 + 0.02 * math.log(1_000_000))
    assert fit([5, 5], [0.1, 0.2]) is None


@pytest.mark.parametrize(
    ("content", "named"),
    [('{"made_on": "tpu"}', "made_on"), ('{"curve": [{"tokens": 0}]}', "curve.0.tokens"), ("[", "Invalid JSON")],
)
def test_metrics_that_cannot_be_used_are_named(content: str, named: str, tmp_path: Path) -> None:
    assert read_metrics(tmp_path).made_on == "cpu"
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(ValueError, match=f"metrics.json: .*{named}"):
        read_metrics(tmp_path)


def test_the_command_measures_judges_and_records(models: Path, tmp_path: Path) -> None:
    """By the goals of the machine that the draft was made on, with the curve that lies beside it."""
    draft = tmp_path / "draft"
    shutil.copytree(models / "draft", draft)
    curve = [{"tokens": 10**n, "greedy_agreement": 0.1 * n, "one_minus_tv": 0.05 * n} for n in (3, 4, 5)]
    (draft / "metrics.json").write_text(json.dumps({"made_on": "gpu", "curve": curve, "train_loss": 1.0}))
    file, data = tmp_path / "draft.json", tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("Hello", "One two three")))
    names = ["--target-model", str(models / "target"), "--draft-model", str(draft), "--data", str(data)]
    flags = ["--quick", "--only", "agreement", "--only", "step", "--json", str(file), "--threads", "1"]
    done = CliRunner().invoke(app, ["draft", *names, *flags, "--check", "--max-tokens", "16"])
    assert done.exit_code in (0, 1), done.output
    assert "made on a GPU" in done.output and "predicted for 1,000,000 | 0.600" in " ".join(done.output.split())
    document = read_json(file)
    verdicts = {row["name"]: row["verdict"] for row in document["rows"]}
    assert verdicts["speed_over_target_temperature_0"] == "skipped"
    assert {verdicts["greedy_agreement"], verdicts["step_over_target"]} <= {"holds", "short"}
    assert (done.exit_code == 1) == ("short" in verdicts.values())
    assert [row["goal"] for row in document["rows"] if row["name"] == "greedy_agreement"] == [0.60]
    shares = [place for each in document["data"]["agreement"] for place in each["greedy"]]
    measured = {row["name"]: row["measured"] for row in document["rows"]}
    assert measured["greedy_agreement"] == pytest.approx(sum(shares) / len(shares))
    assert len(document["data"]["steps"]) == 2 and document["data"]["curve"] == curve


def test_the_pair_is_measured_through_its_services(models: Path, tmp_path: Path) -> None:
    file, data = tmp_path / "draft.json", tmp_path / "prompts.jsonl"
    data.write_text(json.dumps({"text": "Hello"}) + "\n")
    names = ["--target-model", str(models / "target"), "--draft-model", str(models / "draft"), "--data", str(data)]
    flags = ["--quick", "--only", "speed", "--json", str(file), "--max-tokens", "16", "--threads", "1"]
    done = CliRunner().invoke(app, ["draft", *names, *flags])
    assert done.exit_code == 0, done.output
    speeds = read_json(file)["data"]["speeds"]
    assert [each["temperature"] for each in speeds] == [0.0, 1.0]
    for each in speeds:
        assert list(each["tokens_per_second"]) == list(lossless(each["temperature"]))
        assert all(speed > 0 for found in each["tokens_per_second"].values() for speed in found)


def test_what_is_no_pair_is_refused_in_one_line(models: Path) -> None:
    target = ["--target-model", str(models / "target")]
    for draft, words in (("none", "--draft-model none"), (str(models / "other"), "has another tokenizer")):
        done = CliRunner().invoke(app, ["draft", *target, "--draft-model", draft, "--only", "step", "--quick"])
        assert done.exit_code == 2 and words in done.stderr and len(done.stderr.strip().splitlines()) == 1
