"""Pictures of drafting ahead show speed beside the bound, as something changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.__main__ import app
from bench.overlap import command
from bench.overlap.costs import Costs
from bench.overlap.curves import DRAFT_STEPS, POLICIES, WIRES, Curves, Sweep, live, on_paper
from bench.overlap.figures import FAR, NEAR, NOISE, SMALL, Measured
from bench.overlap.paper import Policy, ideal, play
from bench.overlap.run import AHEAD, NONE, Bound, Sums
from bench.plots.overlap import BOUND, draw
from bench.plots.picture import save, to_svg
from tests.bench.recordings import a_recording, a_text

RECORDINGS = {
    "often wrong": a_recording(a_text(40, {at: 1 for at in range(1, 40, 3)})),
    "seldom wrong": a_recording(a_text(40, {7: 1, 21: 2})),
}


@pytest.fixture(scope="module")
def sweeps() -> dict[str, Sweep]:
    return {each.name: each for each in on_paper(RECORDINGS, NEAR, texts=1, tokens=16)}


def test_the_wire_the_draft_and_its_agreement_are_swept_on_paper(sweeps: dict[str, Sweep]) -> None:
    assert list(sweeps) == ["overlap-wire-paper", "overlap-cost-paper", "overlap-acceptance-paper"]
    wire, cost, acceptance = sweeps.values()
    assert [panel.title for panel in wire.panels] == [panel.title for panel in cost.panels] == list(RECORDINGS)
    for sweep, swept in ((wire, WIRES), (cost, DRAFT_STEPS)):
        for panel in sweep.panels:
            assert list(panel.speeds) == list(POLICIES)
            for points in panel.speeds.values():
                speeds = [speed for _, speed in points]
                assert [x for x, _ in points] == list(swept) and speeds == sorted(speeds, reverse=True)
                assert speeds[0] > speeds[-1]
            assert len({speed for _, speed in panel.bounds}) == 1  # of a draft that costs nothing
    [panel] = acceptance.panels
    agreements = [recording.agreement for recording in RECORDINGS.values()]
    for points in (*panel.speeds.values(), panel.bounds):
        assert [x for x, _ in points] == agreements and points[0][1] < points[1][1]


def test_nothing_is_faster_than_the_bound_and_both_are_those_of_the_paper(sweeps: dict[str, Sweep]) -> None:
    for sweep in sweeps.values():
        for panel in sweep.panels:
            for points in panel.speeds.values():
                assert all(speed <= bound for (_, speed), (_, bound) in zip(points, panel.bounds, strict=True))
    recording, costs = RECORDINGS["often wrong"], Costs(wire=10.0)
    panel = sweeps["overlap-wire-paper"].panels[0]
    alone = max(play(recording, costs, Policy(each, each, rows=1), tokens=16).speed for each in (5, 8, 12))
    assert dict(panel.speeds["no look-ahead"])[10.0] == pytest.approx(alone)
    assert dict(panel.bounds)[10.0] == max(ideal(recording, costs, each, tokens=16) for each in range(33))


def sums(speed: int) -> Sums:
    return Sums(tokens=speed, seconds=1.0)


def test_what_was_measured_over_several_wires_is_drawn_at_each_ways_best_length() -> None:
    measured = Measured(
        sides={
            (NOISE, 0.0, FAR): {(NONE, 4): sums(50), (NONE, 8): sums(60), (AHEAD, 8): sums(120)},
            (NOISE, 0.0, NEAR): {(NONE, 4): sums(100), (NONE, 8): sums(90), (AHEAD, 8): sums(150)},
            (SMALL, 0.0, NEAR): {(NONE, 4): sums(40), (AHEAD, 4): sums(44)},
        },
        bounds={(NOISE, 0.0): Bound(190, 22), (SMALL, 0.0): Bound(50, 5)},
    )
    found = live(measured, {NOISE: "a", SMALL: "b"})
    assert found is not None
    speeds = {NONE: [(NEAR, 100), (FAR, 60)], AHEAD: [(NEAR, 150), (FAR, 120)]}
    assert found.panels == [Curves("draft a\ntemperature 0", speeds, [(NEAR, 190), (FAR, 190)])]
    del measured.sides[NOISE, 0.0, FAR]
    assert live(measured, {NOISE: "a", SMALL: "b"}) is None


def test_a_picture_has_a_line_for_each_policy_and_one_for_the_bound(sweeps: dict[str, Sweep], tmp_path: Path) -> None:
    for sweep in sweeps.values():
        picture = draw(sweep)
        assert len(picture.figure.axes) == len(sweep.panels)
        for axes, panel in zip(picture.figure.axes, sweep.panels, strict=True):
            lines = {str(line.get_label()): list(map(tuple, line.get_xydata())) for line in axes.lines}
            assert lines == {**panel.speeds, BOUND: panel.bounds}
            assert axes.get_xlabel() == sweep.label and axes.get_ylim()[0] == 0
        [legend] = picture.figure.legends
        assert [text.get_text() for text in legend.get_texts()] == [*POLICIES, BOUND]
        assert to_svg(picture) == to_svg(draw(sweep))
        save(picture, tmp_path, sweep.name)
    assert len(list(tmp_path.iterdir())) == 2 * len(sweeps)


def test_labels_and_titles_of_panels_do_not_cover_each_other(
    sweeps: dict[str, Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command._Recordings, "of", lambda *_: (RECORDINGS["seldom wrong"], Path("none")))
    titles = list(command._Recordings(False, print).by_title())
    assert len(titles) == 3
    for sweep in list(sweeps.values())[:2]:
        panels = [Curves(title, {}, [(each, 190.0) for each in WIRES]) for title in titles]
        figure = draw(Sweep("a", "b", sweep.label, "c", panels)).figure
        for what in ("title", "label"):
            texts = [axes.xaxis.label if what == "label" else axes._left_title for axes in figure.axes]  # type: ignore[attr-defined]
            boxes = [text.get_window_extent() for text in texts]
            assert not [1 for one, other in zip(boxes, boxes[1:], strict=False) if one.overlaps(other)], what


@pytest.mark.parametrize("flags", [["--paper", "--capacity"], ["--ratio", "--capacity"]])
def test_two_that_each_say_what_alone_to_do_are_refused(flags: list[str]) -> None:
    result = CliRunner().invoke(app, ["overlap", *flags])
    assert result.exit_code == 2 and "give one of them" in result.output


def test_times_are_stretched_no_further_than_services_hold_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command._Recordings, "of", lambda *_: (RECORDINGS["seldom wrong"], Path("none")))
    result = CliRunner().invoke(app, ["overlap", "--capacity", "--stretch", "16"])
    assert result.exit_code == 2 and "can be 15 at most" in result.output
