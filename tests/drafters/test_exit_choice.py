"""At which layer to leave and how far to draft, with the numbers of DEL's rule computed by hand."""

from __future__ import annotations

import pytest

from draft_service.drafters.exit_choice import ExitChoice


def test_the_layer_and_the_length_with_the_most_tokens_per_layer_are_taken() -> None:
    """Of L = 8 layers, layer 2 says 2 of 4 tokens right, layer 4 says 3 of 4, layer 6 all. Tokens per layer:

    layer 2, a = .5:   g = 1: 1.5 / 10 = .15   g = 2: 1.75 / 12 = .1458   g = 3: 1.875 / 14 = .1339
    layer 4, a = .75:  g = 1: 1.75 / 12 = .1458   g = 2: 2.3125 / 16 = .1445   g = 3: 2.734 / 20 = .1367
    layer 6, a = 1:    g = 1: 2 / 14 = .1429   g = 2: 3 / 20 = .15   g = 3: 4 / 26 = .1538   g = 16: 17 / 104 = .1635
    """
    choice = ExitChoice((2, 4, 6), depth=8)
    choice.look([((7, 5, 5), 5), ((5, 5, 5), 5), ((5, 7, 5), 5), ((1, 5, 5), 5)])
    choice.look([])  # which decays right and wrong alike
    assert choice.best() == (6, 16)
    # One wrong token at layer 6 makes a = 4 * .95^2 / (4 * .95^2 + 1) = .783: no length gives more than
    # 1.783 / 14 = .1274, while layer 2 with one more right, a = (2 * .95^2 + 1) / (4 * .95^2 + 1) = .608, gives
    # g = 1: 1.608 / 10 = .1608, g = 2: 1.978 / 12 = .1648, g = 3: 2.203 / 14 = .1573.
    choice.look([((5, 7, 7), 5)])
    assert choice.best() == (2, 2)


def test_what_is_long_ago_counts_less() -> None:
    """A layer that was right ten times and then wrong ten times, a look each: right ones weigh .95^10 as much as wrong
    ones, a = .95^10 / (1 + .95^10) = .374. Layer 1 of 4 with a = .374: g = 1: 1.374 / 5 = .2749, g = 2: 1.514 / 6 =
    .2524. With a = .5, were nothing forgotten, g = 1: 1.5 / 5 = .3, g = 2: 1.75 / 6 = .2917. Layer 3, right every
    second time, a little more of late: a = 1 / 1.95 = .5128, g = 1: 1.5128 / 7 = .2161."""
    choice = ExitChoice((1, 3), depth=4)
    for index in range(20):
        choice.look([((5 if index < 10 else 7, 5 if index % 2 else 7), 5)])
    assert choice._tokens_per_layer(1, 1) == pytest.approx(0.2749, abs=1e-4)
    assert choice._tokens_per_layer(1, 2) == pytest.approx(0.2524, abs=1e-4)
    assert choice._tokens_per_layer(3, 1) == pytest.approx(0.2161, abs=1e-4)
    assert choice.best() == (1, 1)


def test_before_anything_is_known_the_cheapest_is_tried() -> None:
    assert ExitChoice((3, 6, 9), depth=12).best() == (3, 1)


def test_the_threshold_is_the_midpoint_of_the_means() -> None:
    """Kept .9 and .7, then a round later .5; rejected .2, a round before: means (.95 (.9 + .7) + .5) / (.95 * 2 + 1) =
    .6966 and .2; their midpoint is .4483."""
    choice = ExitChoice((2, 4), depth=8)
    assert choice.threshold(2) == 0
    choice.judged(2, [0.9, 0.7], 0.2)
    choice.judged(2, [0.5], None)
    assert choice.threshold(2) == pytest.approx(0.4483, abs=1e-4)
    assert choice.threshold(4) == 0  # which has drafted nothing
    choice.judged(4, [0.9], None)
    assert choice.threshold(4) == 0  # nothing was wrong
