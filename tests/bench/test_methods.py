"""Every rule and drafter is in the table and on the page of methods, what its figures say is what was measured, and a
run that is ended leaves what there is."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.__main__ import app
from bench.decode.methods import (
    ACCEPT,
    DRAFTER,
    POLICY,
    SETUPS,
    STOP,
    TREE,
    Method,
    baselines,
    methods,
)
from bench.decode.run import Task
from bench.decode.standing import standing
from bench.decode.survey import Survey, same_tokens
from bench.page.methods_tables import methods_tables
from bench.pair import Pair
from bench.plots.forms.document import read_document
from bench.plots.forms.methods import MethodsData
from bench.plots.methods import draw
from bench.plots.picture import Absent, Picture
from bench.policies import ALONE, POLICIES, VANILLA
from bench.prompts import Prompt
from orchestrator import acceptance, stopping
from orchestrator.policy import build_accept_rule, build_stop_rule
from orchestrator.stopping.fixed import FixedLength
from tandem.drafters import DRAFTERS
from tandem.policies import policy_from_names
from tests.bench.method_records import methods_data
from tests.support.tiny_target import save_target

# The list.


def test_every_registered_rule_and_drafter_is_a_method() -> None:
    found = {kind: [each.name for each in methods() if each.kind == kind] for kind in (ACCEPT, STOP, DRAFTER)}
    assert found[ACCEPT] == list(acceptance.RULES) and found[STOP] == list(stopping.RULES)
    assert set(found[DRAFTER]) >= {*DRAFTERS, "stand+model"}
    assert len({each.key for each in methods()}) == len(methods())
    for each in methods():
        assert each.setup in SETUPS
        accept, stop = build_accept_rule(each.policy.accept, greedy=False), build_stop_rule(each.policy.stop)
        assert accept.name == each.name or each.kind != ACCEPT
        assert stop.name == each.name or each.kind != STOP


def test_a_rule_without_a_message_of_its_own_is_a_method_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class New(FixedLength):
        name = "new"

    monkeypatch.setitem(stopping.RULES, "new", New)
    [method] = methods(["stop/new"])
    assert isinstance(build_stop_rule(method.policy.stop), New)


def test_each_method_differs_from_vanilla_in_one_thing() -> None:
    vanilla = POLICIES[VANILLA]
    for each in methods():
        if each.kind == STOP:
            assert each.policy.accept == vanilla.accept
        if each.kind == ACCEPT and each.name != "fly":
            assert each.policy.stop == vanilla.stop
        if each.kind == DRAFTER:
            assert each.policy == vanilla and SETUPS[each.setup].change(Pair()).drafter == (
                None if each.name == "model" else each.name
            )


def test_fly_gets_blocks_in_which_it_can_act() -> None:
    [fly] = methods(["accept/fly"])
    window = acceptance.RULES["fly"](greedy=True)._window
    assert fly.policy.stop.max_tokens > window


def test_only_what_is_named_is_measured() -> None:
    assert [each.key for each in methods(["tree", "stop/adasd"])][0] == "stop/adasd"
    assert {each.kind for each in methods(["tree"])} == {TREE}
    with pytest.raises(ValueError, match="there is no method 'stop/x'; there are accept, stop,"):
        methods(["stop/x"])
    done = CliRunner().invoke(app, ["decode", "--only", "stop"])
    assert done.exit_code == 2 and "go with --all" in done.stderr
    done = CliRunner().invoke(app, ["decode", "--all", "--check"])
    assert done.exit_code == 2 and "--only" in done.stderr


# Figures.


def test_speeds_are_ratios_within_the_services_of_a_method() -> None:
    [run] = MethodsData.model_validate(methods_data()).runs
    fly, suffix, tiers, adasd = (standing(run, row) for row in run.rows)
    for found, over_alone in ((fly, 2.0), (suffix, 3.0)):
        assert found.over_alone is not None and found.over_vanilla is not None
        assert found.over_alone.middle == pytest.approx(over_alone)
        assert found.over_vanilla.middle == pytest.approx(over_alone / 1.5)
    assert fly.tokens_per_second == pytest.approx(math.sqrt(800))
    assert fly.acceptance_length == 1 + 6 / 4 and fly.lossy_share == 0.1 and fly.as_alone == 0.7
    assert tiers == standing(run, run.rows[2]) and tiers.over_alone is None and tiers.prompts == 0
    # Only the prompt that both completed.
    assert adasd.over_alone is not None and adasd.over_alone.middle == pytest.approx(3.0)


def test_the_table_says_what_was_not_measured_and_why() -> None:
    [table] = methods_tables(MethodsData.model_validate(methods_data()))
    cells = {row[0]: dict(zip(table.head, row, strict=True)) for row in table.rows}
    assert cells["stop: tiers"]["note"] == "not measured: it was refused"
    assert cells["stop: adasd"]["note"] == "1 of 2 prompts"
    assert cells["accept: fly"]["let through"] == "10.0 %" and cells["drafter: suffix"]["let through"] == ""
    assert cells["drafter: suffix"]["over vanilla"] == "2.00 (2.00 to 2.00)"


def test_the_picture_has_a_mark_for_each_method_that_was_measured() -> None:
    data = MethodsData.model_validate(methods_data())
    drawn = draw(data)
    assert isinstance(drawn, Picture)
    [axes] = drawn.figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "baseline/vanilla, 5", "accept/fly", "drafter/suffix", "stop/adasd"
    ]  # fmt: skip
    marks = [float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() not in ("None", None, "")]
    assert marks == pytest.approx([1.5, 2.0, 3.0, 3.0])
    assert isinstance(draw(MethodsData(runs=[])), Absent)


def test_texts_are_compared_from_their_beginning() -> None:
    assert same_tokens([1, 2, 3], [1, 2, 3]) == 3
    assert same_tokens([1, 5, 3], [1, 2, 3]) == 1
    assert same_tokens([1, 2], [1, 2, 3]) == 2


# The run.


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two tiny models in float32: texts are the target's own to the token."""
    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("target", 3), ("draft", 4)):
        save_target(folder / name, seed=seed)
    return Pair(str(folder / "target"), str(folder / "draft"), "float32", threads=1)


def test_methods_of_all_services_are_measured_in_one_run(pair: Pair, tmp_path: Path) -> None:
    path, plots = tmp_path / "all.json", tmp_path / "plots"
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"text": "abcabcabc"}) + "\n" + json.dumps({"text": "xyzxyz"}))
    only = ("accept/typical", "stop/tiers", "tree/set-size", "drafter/suffix")
    done = CliRunner().invoke(
        app,
        [
            "decode", "--all", "--max-tokens", "8", "--data", str(prompts), "--json", str(path), "--plots", str(plots),
            "--target-model", pair.target_model, "--draft-model", pair.draft_model, "--dtype", "float32",
            "--threads", "1", *(word for name in only for word in ("--only", name)),
        ],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert sorted(each.name for each in plots.iterdir()) == ["methods.png", "methods.svg"]
    document = read_document(path)
    assert isinstance(document.data, MethodsData)
    assert [run.temperature for run in document.data.runs] == [0.0, 1.0]
    for run in document.data.runs:
        assert [(row.name, row.setup) for row in run.baselines] == [
            (ALONE, "model"), (VANILLA, "model"), (ALONE, "suffix")
        ]  # fmt: skip
        assert [row.key for row in run.rows] == list(only[:2]) + ["drafter/suffix", "tree/set-size"]
        for row in (*run.baselines, *run.rows):
            assert row.why == "" and [each.prompt for each in row.completions] == [0, 1]
            found = standing(run, row)
            assert found.over_alone is not None and found.tokens_per_second is not None
            assert found.tokens_per_second > 0
            if run.temperature == 0 and not row.lossy:
                assert found.as_alone == 1  # lossless, in float32
            assert row.lossy == (row.name == "typical")
    assert done.stdout.count("drafter: suffix") == 2


def test_a_run_that_is_ended_keeps_what_there_is_and_a_method_that_is_refused_says_why(pair: Pair) -> None:
    prompts = [Prompt("text", str(number), "abcabc", raw=True) for number in range(3)]
    refused = policy_from_names("fixed", "block", tree_nodes=4)
    survey = Survey(pair, [Task(prompts, 6, 0.0, seed=1)], [Method(TREE, "bad", refused), *methods(["stop/tiers"])])

    def end(what: str) -> None:
        if what.endswith("prompt 3 of 3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        survey.run(end)
    [run] = MethodsData.model_validate({"runs": survey.to_json()}).runs
    bad, tiers = run.rows
    assert bad.completions == [] and "speculation.tree" in bad.why
    assert [each.prompt for each in tiers.completions] == [0, 1]
    assert standing(run, tiers).over_alone is not None
    assert len(baselines("model")) == 2 and POLICY not in {row.kind for row in run.rows}
