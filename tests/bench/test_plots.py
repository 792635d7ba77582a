"""Pictures show the numbers that they are given, can be read, also in grey, and say why they are not there."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure

from bench.goals import Figure as Measured
from bench.goals import Goal, Row, Verdict
from bench.intervals import paired_ratio, share
from bench.plots import densities, fates, goals, load, peers, positions, round_parts, speed, thresholds, tradeoff
from bench.plots.forms.decode import DecodeData, Round
from bench.plots.forms.document import Document
from bench.plots.forms.others import PeersData, QualityData
from bench.plots.forms.pairs import pair_name
from bench.plots.forms.serve import ServeData
from bench.plots.gallery import pictures
from bench.plots.looks import look, looks
from bench.plots.picture import Absent, Drawn, Picture, to_png, to_svg
from bench.policies import ALONE, DRAFT_ALONE, POLICIES
from tests.bench import documents

FEW = (ALONE, "vanilla, 5", "AdaSD v1", "AdaEDL")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("documents")


@pytest.fixture(scope="module")
def decoded(folder: Path) -> Document:
    """All policies, at two temperatures."""
    data = documents.decode_data(random.Random(1), temperatures=(0.0, 1.0), each=2)
    return documents.write(folder / "decode.json", "decode", data)


@pytest.fixture(scope="module")
def everything(folder: Path, decoded: Document) -> list[Document]:
    """A document of each bench."""
    source = random.Random(2)
    sides = {"transformers": 24.0, "transformers, assisted": 31.0, "tandem, off": 26.0, "tandem, goodput": 41.0}
    return [
        decoded,
        documents.write(folder / "quality.json", "quality", documents.quality_data(source, list(POLICIES))),
        documents.write(folder / "serve.json", "serve", documents.serve_data(source, FEW)),
        documents.write(folder / "peers.json", "peers", documents.peers_data(source, sides)),
        documents.write(folder / "engine.json", "engine", rows=documents.engine_rows(source)),
    ]


@pytest.fixture(scope="module")
def drawn(everything: list[Document]) -> list[Picture]:
    found = [each for document in everything for each in pictures(document, everything)]
    assert not [each for each in found if isinstance(each, Absent)]
    return [each for each in found if isinstance(each, Picture)]


def picture(found: Drawn) -> Picture:
    assert isinstance(found, Picture)
    return found


def why(found: Drawn) -> str:
    assert isinstance(found, Absent)
    return found.why


def decode_data(document: Document) -> DecodeData:
    assert isinstance(document.data, DecodeData)
    return document.data


def bars(axes: Axes) -> dict[str, list[BarContainer]]:
    """By label."""
    found: dict[str, list[BarContainer]] = {}
    for each in axes.containers:
        if isinstance(each, BarContainer):
            found.setdefault(str(each.get_label()), []).append(each)
    return found


def lines(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """Points by label."""
    named = (line for line in axes.lines if not str(line.get_label()).startswith("_"))
    return {str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in named}  # type: ignore[arg-type]


def test_there_is_a_picture_of_everything(drawn: list[Picture]) -> None:
    names = [each.name for each in drawn]
    assert names == [
        "speed", "positions",
        "time-0", "entropies-0", "distances-0", "thresholds-0", "time-1", "entropies-1", "distances-1", "thresholds-1",
        "tradeoff-negative-log-likelihood-0", "tradeoff-gsm8k-exact-answer-0", "load-closed", "peers", "goals",
    ]  # fmt: skip


def test_axes_say_what_they_show_and_in_which_unit(drawn: list[Picture]) -> None:
    for each in drawn:
        for axes in each.figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                told = axis.get_label_text() or _label_beside(axes, each.figure)
                names = [tick.get_text() for tick in axis.get_ticklabels()]
                assert _names_a_unit(told) or not any(_is_number(name) for name in names if name), each.name


def _label_beside(axes: Axes, figure: Figure) -> str:
    """Panels of one row share what the first says."""
    row = [other for other in figure.axes if abs(other.get_position().y0 - axes.get_position().y0) < 0.01]
    return row[0].get_ylabel()


def _names_a_unit(label: str) -> bool:
    return "(" in label and label.endswith(")")


def _is_number(text: str) -> bool:
    try:
        float(text.replace("\u2212", "-"))
    except ValueError:
        return False
    return True


def test_nothing_is_cut_off_and_legends_cover_no_data(drawn: list[Picture]) -> None:
    for each in drawn:
        figure = each.figure
        figure.draw_without_rendering()
        page = figure.bbox
        for axes in figure.axes:
            box = axes.get_tightbbox()
            assert box is not None
            assert page.x0 - 1 <= box.x0 and box.x1 <= page.x1 + 1, each.name
            assert page.y0 - 1 <= box.y0 and box.y1 <= page.y1 + 1, each.name
            for legend in figure.legends:
                assert not legend.get_window_extent().overlaps(axes.get_window_extent()), each.name
        for one, other in combinations(figure.axes, 2):
            assert not one.get_window_extent().overlaps(other.get_window_extent()), each.name


def test_series_differ_in_more_than_colour(drawn: list[Picture]) -> None:
    for each in drawn:
        for axes in each.figure.axes:
            named = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
            looks_of: dict[Any, str] = {}
            for line in named:
                key = (line.get_marker(), line.get_linestyle(), getattr(line, "_unscaled_dash_pattern", None))
                assert looks_of.setdefault(str(key), str(line.get_label())) == line.get_label(), each.name
            for container in axes.containers:
                if isinstance(container, ErrorbarContainer) and container.lines[0] is not None:
                    marker = str(container.lines[0].get_marker())
                    assert looks_of.setdefault(marker, str(container.get_label())) == container.get_label(), each.name
            hatches: dict[str | None, str] = {}
            for label, containers in bars(axes).items():
                for patch in (patch for container in containers for patch in container):
                    assert hatches.setdefault(patch.get_hatch(), label) == label, each.name


def test_sixty_looks_differ_in_grey() -> None:
    found = [look(index) for index in range(60)]
    assert len({(each.marker, str(each.dash)) for each in found}) == 60
    assert len({each.hatch for each in found}) == 60
    assert looks(["mine", "AdaEDL"])["AdaEDL"] == looks(["AdaEDL", "other"])["AdaEDL"]


def test_bars_are_the_paired_ratios(decoded: Document) -> None:
    runs = decode_data(decoded).runs
    figure = picture(speed.draw(decode_data(decoded))).figure
    for axes, run in zip(figure.axes, runs, strict=True):
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["all prompts", *documents.DATASETS]
        errors = {
            round(float(path.vertices[:, 0].mean()), 6): sorted(path.vertices[:, 1])
            for each in axes.containers
            if isinstance(each, ErrorbarContainer)
            for path in each.lines[2][0].get_paths()
        }
        for name in run.speculating:
            found = bars(axes)[name]
            for container, dataset in zip(found, (None, *documents.DATASETS), strict=True):
                pairs = [
                    (ours.tokens_per_second, theirs.tokens_per_second)
                    for ours, theirs in zip(run.policies[name], run.policies[ALONE], strict=True)
                    if dataset in (None, ours.dataset)
                ]
                expected = paired_ratio(*zip(*pairs, strict=True))
                (patch,) = container
                assert patch.get_height() == expected.middle
                ends = errors[round(patch.get_x() + patch.get_width() / 2, 6)]
                assert ends == pytest.approx([expected.low, expected.high])
        assert [1, 1] in [list(line.get_ydata()) for line in axes.lines]


def test_prompts_without_a_speed_are_left_out(folder: Path) -> None:
    data = documents.decode_data(random.Random(3), FEW)
    (run,) = data["runs"]
    for completion, rate in zip(run["policies"]["AdaEDL"], (0.0, *[50.0] * 99), strict=False):
        completion["tokens_per_second"] = rate
    for completion in run["policies"]["vanilla, 5"]:
        completion["tokens_per_second"] = 0.0
    parsed = DecodeData.model_validate(data).runs[0]
    assert list(speed.speed_ups(parsed)) == ["AdaSD v1", "AdaEDL"]
    alone = [each["tokens_per_second"] for each in run["policies"][ALONE][1:]]
    assert speed.speed_ups(parsed)["AdaEDL"] == paired_ratio([50.0] * len(alone), alone)


def test_acceptance_by_position_divides_by_all_verifications(decoded: Document) -> None:
    run = decode_data(decoded).runs[0]
    (axes, _) = picture(positions.draw(decode_data(decoded))).figure.axes
    assert ALONE not in lines(axes)
    for name, (x, y) in lines(axes).items():
        rounds = [each for completion in run.traces[name] for each in completion]
        counted = [sum(each.kept > at for each in rounds) / len(rounds) for at in range(len(y))]
        assert y == pytest.approx(counted) and x == list(range(1, len(y) + 1))
        accepted = sum(each.speculation.accepted_tokens for each in run.policies[name])
        assert sum(y) == pytest.approx(accepted / len(rounds))


def test_undecided_candidates_count_for_neither_side() -> None:
    rounds = [
        Round(round=1, drafted=4, kept=1, draft_entropies=[0.1, 2.0, 9.0, 9.0], distances=[0.0, 0.9, 0.5, 0.5]),
        Round(round=2, drafted=2, kept=2, draft_entropies=[0.2, 0.3], distances=[0.1, None], thresholds={"entropy": 1}),
        Round(round=3, drafted=1, kept=0, draft_entropies=[3.0], thresholds={"entropy": 2, "distance": None}),
    ]
    entropies, distances = fates.entropies([rounds[:2], rounds[2:]]), fates.distances([rounds])
    assert (entropies.accepted, entropies.rejected) == ([0.1, 0.2, 0.3], [2.0, 3.0])
    assert (distances.accepted, distances.rejected) == ([0.0, 0.1], [0.9])
    assert (entropies.thresholds, distances.thresholds) == ([1, 2], [])


@pytest.mark.parametrize("high", [1.0, None])
def test_a_density_holds_all_its_mass_where_values_can_be(high: float | None) -> None:
    source = random.Random(4)
    samples = [abs(source.gauss(0, 0.2)) for _ in range(300)]
    samples = [min(each, 1.0) for each in samples]
    at = np.linspace(0, high or 5, 4001)
    heights = fates.density(samples, at, high)
    assert np.trapezoid(heights, at) == pytest.approx(1, abs=1e-3)
    assert heights[0] == max(heights)  # mirrored: it does not fall towards the end where most values are


def test_densities_are_those_of_the_traces(decoded: Document) -> None:
    run = decode_data(decoded).runs[0]
    figure = picture(densities.draw_distances(run, "")).figure
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    for name, trace in run.traces.items():
        if name in (ALONE, DRAFT_ALONE):  # which have no rounds with candidates
            continue
        each = fates.distances(trace)
        axes = panels[f"{name} ({len(each.accepted)}, {len(each.rejected)})"]
        shown = lines(axes)
        for label, samples in (("accepted", each.accepted), ("rejected", each.rejected)):
            x, y = shown[label]
            assert y == pytest.approx(fates.density(samples, np.array(x), 1.0))
        assert ("mean threshold" in shown) == name.startswith("AdaSD")
        if each.thresholds:
            assert shown["mean threshold"][0] == pytest.approx([statistics.fmean(each.thresholds)] * 2)


def test_thresholds_are_means_of_what_most_completions_reached() -> None:
    def trace(*values: float | None) -> list[Round]:
        return [Round(round=at, thresholds={"entropy": value}) for at, value in enumerate(values, start=1)]

    found = thresholds.course([trace(None, 1.0, 1.0), trace(None, 2.0), trace(None, 3.0), trace(5.0, 6.0)], "entropy")
    assert found.rounds == [2]  # one of four had a threshold in the first round, one came to the third
    assert (found.mean, found.low, found.high) == ([3.0], [1.75], [3.75])


def test_threshold_lines_are_the_courses(decoded: Document) -> None:
    run = decode_data(decoded).runs[0]
    figure = picture(thresholds.draw(run, "")).figure
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == [thresholds.AXES[name] for name in ("entropy", "distance", "lambda")]
    for axes, name in zip(figure.axes, ("entropy", "distance", "lambda"), strict=True):
        for policy, (x, y) in lines(axes).items():
            course = thresholds.course(run.traces[policy], name)
            assert (x, y) == (course.rounds, course.mean)


def test_parts_of_a_round_add_up_to_its_wall_time(folder: Path) -> None:
    data = documents.decode_data(random.Random(5), FEW)
    run = DecodeData.model_validate(data).runs[0]
    by_round, by_token = picture(round_parts.draw(run, "")).figure.axes
    for at, name in enumerate(FEW):
        completions = data["runs"][0]["policies"][name]
        wall = sum(each["speculation"]["time"]["rounds_microseconds"] for each in completions) / 1e3
        steps = sum(each["speculation"]["verify_steps"] or documents.TOKENS - 1 for each in completions)
        tokens = len(completions) * (documents.TOKENS - 1)
        for axes, count in ((by_round, steps), (by_token, tokens)):
            widths = {part: container[at].get_width() for part, (container,) in bars(axes).items()}
            assert list(widths) == list(round_parts.PARTS)
            assert sum(widths.values()) == pytest.approx(wall / count)
            compute = sum(each["speculation"]["time"]["rounds"]["draft_compute_microseconds"] for each in completions)
            assert widths["draft compute"] == pytest.approx(compute / count / 1e3)
            last = bars(axes)["orchestrator"][0][at]
            assert last.get_x() + last.get_width() == pytest.approx(wall / count)  # stacked, not one over the other


def test_load_curves_are_the_points_in_order_of_load() -> None:
    data = documents.serve_data(random.Random(6), FEW)
    data["points"].reverse()
    data["points"][0]["per_token_ms"] = None  # as where no request ended well
    points = ServeData.model_validate(data).points
    (found,) = load.draw(points)
    panels = {axes.get_title(loc="left"): lines(axes) for axes in picture(found).figure.axes}
    values = {
        "throughput": lambda point: point["tokens_per_second"],
        "made by the target alone": lambda point: point["plain_share"],
        "time per token, p50": lambda point: point["per_token_ms"] and point["per_token_ms"]["p50"],
        "time per token, p95": lambda point: point["per_token_ms"] and point["per_token_ms"]["p95"],
        "first token, p50": lambda point: point["first_token_ms"]["p50"],
        "first token, p95": lambda point: point["first_token_ms"]["p95"],
    }
    assert list(panels) == list(values)
    for title, read in values.items():
        for name in FEW:
            its = [each for each in data["points"] if each["policy"] == name]
            expected = sorted((each["load"], read(each)) for each in its if read(each))
            assert list(zip(*panels[title][name], strict=True)) == expected
    assert len(panels["time per token, p50"]["AdaEDL"][0]) == 3


def test_open_and_closed_loads_have_pictures_of_their_own() -> None:
    data = documents.serve_data(random.Random(7), FEW)
    data["points"] += documents.serve_data(random.Random(8), FEW, "open")["points"]
    found = load.draw(ServeData.model_validate(data).points)
    axes = [picture(each).figure.axes[0].get_xlabel() for each in found]
    assert axes == ["clients at once (number)", "load offered (requests/s)"]


def test_peers_are_compared_with_tandems_target_alone() -> None:
    data = documents.peers_data(random.Random(9), {"transformers": 20.0, peers.BASE: 25.0, "llama.cpp": 70.0})
    data["sides"]["late"] = {"1": {"tokens_per_second": [1.0, 2.0], "note": ""}}
    found = picture(peers.draw(PeersData.model_validate(data).sides))
    for axes, count in zip(found.figure.axes, ("1", "8"), strict=True):
        assert set(bars(axes)) == {"transformers", "llama.cpp"}
        for name, (container,) in bars(axes).items():
            speeds = [data["sides"][side][count]["tokens_per_second"] for side in (name, peers.BASE)]
            assert container[0].get_width() == paired_ratio(*speeds).middle
    assert "Left out: late." in found.caption


def _row(name: str, measured: float | None, goal: float, direction: str, verdict: Verdict) -> Row:
    spread = (measured * 0.9, measured * 1.2) if measured else None
    return Row(Measured(name, measured, spread), Goal(name, goal, direction), name, verdict)


def test_dots_are_figures_over_goals_by_direction(folder: Path) -> None:
    rows = [
        _row("quick", 0.5, 1.0, "at most", Verdict.HOLDS), _row("slow", 3.0, 2.0, "at most", Verdict.SHORT),
        _row("much", 9.0, 4.5, "at least", Verdict.HOLDS), _row("zero", 0.0, 0.0, "at most", Verdict.HOLDS),
        _row("nothing", None, 1.0, "at least", Verdict.SHORT),
    ]  # fmt: skip
    found = picture(goals.draw(documents.write(folder / "rows.json", "engine", rows=rows).rows))
    most, least = found.figure.axes
    assert most.get_title(loc="left").startswith("at most") and least.get_title(loc="left").startswith("at least")
    assert [tick.get_text() for tick in most.get_yticklabels()] == ["quick", "slow"]
    assert lines(most)["holds"] == ([0.5], [0]) and lines(most)["falls short"] == ([1.5], [1])
    assert lines(least)["holds"] == ([2.0], [0])
    assert [list(line.get_xdata()) for line in least.lines][0] == pytest.approx([1.8, 2.4])
    assert "goal of 0: 2;" in found.caption


def test_a_policy_stands_where_its_speed_and_quality_are(decoded: Document, everything: list[Document]) -> None:
    quality, runs = everything[1].data, decode_data(decoded).runs
    assert isinstance(quality, QualityData)
    likelihood, answers = (picture(each) for each in tradeoff.draw(quality, runs))
    speeds = speed.speed_ups(runs[0])
    for found, measure in ((likelihood, tradeoff.LIKELIHOOD), (answers, "gsm8k exact answer")):
        (axes,) = found.figure.axes
        points = {
            str(each.get_label()): each.lines[0].get_xydata()[0]
            for each in axes.containers
            if isinstance(each, ErrorbarContainer)
        }
        assert set(points) == set(POLICIES) - {DRAFT_ALONE}
        assert set(points) == {text.get_text() for text in axes.texts}  # each is named
        for name, (x, y) in points.items():
            expected = quality.policies[name].measures[measure]
            against = expected.against_alone.middle if expected.against_alone else 0.0
            assert x == (1 if name == ALONE else speeds[name].middle)
            assert y == (against if measure == tradeoff.LIKELIHOOD else expected.middle)


def test_names_beside_markers_do_not_cover_each_other(drawn: list[Picture]) -> None:
    (found,) = (each for each in drawn if each.name == "tradeoff-negative-log-likelihood-0")
    found.figure.draw_without_rendering()
    boxes = [text.get_tightbbox() for text in found.figure.axes[0].texts]
    texts = [super(type(text), text).get_window_extent() for text in found.figure.axes[0].texts]
    assert len(boxes) == len(POLICIES) - 1
    assert not [1 for one, other in combinations(texts, 2) if one.overlaps(other)]


def test_an_interval_that_ends_at_its_middle_can_be_drawn(decoded: Document) -> None:
    none = share(0, 20)
    measures = {"gsm8k exact answer": {"low": none.low, "middle": none.middle, "high": none.high}}
    data = {"temperature": 0.0, "policies": {name: {"measures": measures} for name in FEW}}
    (found,) = tradeoff.draw(QualityData.model_validate(data), decode_data(decoded).runs)
    to_svg(picture(found))


@pytest.mark.parametrize(("temperature", "draft"), [(0.5, "rig:noise-0.05"), (0.0, "another")])
def test_speed_and_quality_of_different_runs_do_not_mix(
    folder: Path, decoded: Document, temperature: float, draft: str
) -> None:
    data = documents.quality_data(random.Random(10), FEW, temperature)
    quality = documents.write(folder / "other.json", "quality", data, draft_model=draft)
    (found,) = pictures(quality, [decoded])
    assert f"temperature {temperature:g}" in why(found)


def test_runs_of_several_pairs_are_told_apart(folder: Path) -> None:
    """As goals ask for: one document, the options' pair beside those of the runs."""
    data = documents.decode_data(random.Random(15), FEW, (0.0, 0.0), each=2)
    data["runs"][1]["pair"] = data["runs"][0]["pair"] | {"draft_weights": "int4"}
    document = documents.write(folder / "pairs.json", "decode", data, target_model="a", draft_model="b")
    names = ["rig:wide-3 with rig:noise-0.05", "rig:wide-3 with rig:noise-0.05 (int4)"]
    assert [pair_name(pair) for pair in document.pairs] == names
    found = [picture(each) for each in pictures(document)]
    assert len({each.name for each in found}) == len({each.title for each in found}) == len(found) == 10
    assert [axes.get_title(loc="left") for axes in found[0].figure.axes] == [f"{each}, temperature 0" for each in names]
    quality = documents.write(folder / "q.json", "quality", documents.quality_data(random.Random(16), FEW))
    runs = decode_data(document).runs
    for draft_weights, run in (("full", runs[0]), ("int4", runs[1])):
        options = quality.model_copy(update={"options": quality.options | {"draft_weights": draft_weights}})
        axes = picture(pictures(options, [document])[0]).figure.axes[0]
        at = {str(each.get_label()): each.lines[0].get_xdata()[0] for each in axes.containers}  # type: ignore[attr-defined]
        assert at["AdaSD v1"] == speed.speed_ups(run)["AdaSD v1"].middle


def test_each_temperature_has_its_own_quality(decoded: Document, folder: Path) -> None:
    data = documents.quality_data(random.Random(17), FEW)
    data["other_temperatures"] = [documents.quality_data(random.Random(18), FEW, degree) for degree in (1.0, 0.3)]
    found = pictures(documents.write(folder / "degrees.json", "quality", data), [decoded])
    names = [each.name if isinstance(each, Picture) else each.why for each in found]
    kinds = ("negative-log-likelihood", "gsm8k-exact-answer")
    assert names[:4] == [f"tradeoff-{kind}-{degree}" for degree in (0, 1) for kind in kinds]
    assert "temperature 0.3" in names[4] and len(names) == 5


def test_what_cannot_be_drawn_says_why(folder: Path) -> None:
    alone = DecodeData.model_validate(documents.decode_data(random.Random(11), (ALONE,)))
    others = DecodeData.model_validate(documents.decode_data(random.Random(12), FEW[1:], traced=False))
    assert why(speed.draw(alone)) == "Nothing but the target alone was run, or no completion has a speed."
    assert why(speed.draw(others)) == "There is no run of the target alone to compare with."
    assert why(positions.draw(alone)) == "No policy verified a block."
    for drawn in (densities.draw_entropies(others.runs[0], ""), thresholds.draw(others.runs[0], "")):
        assert why(drawn) == "The run has no traces."
    without = documents.decode_data(random.Random(13), FEW[:2])
    for each in without["runs"][0]["traces"]["vanilla, 5"]:
        for account in each:
            account["distances"] = []
    for completions in without["runs"][0]["policies"].values():
        for completion in completions:
            del completion["speculation"]["time"]
    run = DecodeData.model_validate(without).runs[0]
    assert why(densities.draw_distances(run, "")) == "The traces hold no distances of accepted or rejected tokens."
    assert why(thresholds.draw(run, "")) == "No rule that was traced has a threshold that moves."
    assert why(round_parts.draw(run, "")) == "The services did not report the parts of their rounds."
    assert "'tandem, off'" in why(peers.draw({}))
    assert why(goals.draw([])) == "No figure was measured that has a goal other than 0."


def test_names_are_names_whatever_they_contain(recwarn: pytest.WarningsRecorder) -> None:
    names = [ALONE, "$\\frac$ & <b>", "_hidden", "much longer than any legend can hold, " * 3]
    data = DecodeData.model_validate(documents.decode_data(random.Random(14), names, each=1))
    of_run = (round_parts.draw, densities.draw_entropies)
    found = [speed.draw(data), positions.draw(data), *(draw(data.runs[0], "$x") for draw in of_run)]
    for each in found:
        to_svg(picture(each))
    (legend,) = picture(found[1]).figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[:2] == ["$\\frac$ & <b>", " _hidden"] and len(texts) == 3 and len(texts[2]) <= 34
    assert not [str(each.message) for each in recwarn]


def test_the_same_data_gives_the_same_bytes(everything: list[Document], drawn: Sequence[Picture]) -> None:
    again = [each for document in everything[1:] for each in pictures(document, everything)]
    first = {each.name: each for each in drawn}
    for each in map(picture, again):
        svg = to_svg(each)
        assert svg.startswith(b"<svg") and svg == to_svg(first[each.name])
    assert to_png(picture(again[-1])) == to_png(first["goals"])
