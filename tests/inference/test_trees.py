"""Candidates of a tree, run in one pass, have the logits that each path has as a text of its own; and the path that is
kept leaves the cache as if nothing else had been there."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import Tensor

from tandem.inference import step
from tandem.inference.engine import Engine
from tandem.inference.runner import Block, ContextFullError, ModelRunner, Sequence
from tandem.inference.scheduler import Budget, Scheduler, Task
from tandem.inference.work import SingleWork
from tandem.trees import ROOT, Tree
from tests.inference.architectures import CONFIGS, CONTEXT, VOCABULARY, Pair, load, pair

_NAMES = ["llama", "mistral, sliding window", "qwen2, sliding window", "gemma2, soft cap", "gpt-neox"]
_TREES = {
    "chain": [ROOT, 0, 1, 2],
    "siblings": [ROOT] * 5,
    "binary": [ROOT, ROOT, 0, 0, 1, 1, 2, 2, 5],
    "deep and wide": [ROOT, ROOT, ROOT, 0, 0, 1, 3, 3, 6, 8, 9, 2, 11, 12, 13, 14, 15, 16, 17, 18],
}


@pytest.fixture(scope="module", params=_NAMES, ids=lambda name: name.replace(", ", "-").replace(" ", "-"))
def models(request: pytest.FixtureRequest) -> Pair:
    return pair(CONFIGS[request.param])


@pytest.fixture(params=["copied", "merged", "in 2 sections", "in 5 sections"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "_MOST_COPIED_BYTES", 0 if request.param == "merged" else 1 << 60)
    if "sections" in request.param:
        monkeypatch.setattr(step, "balanced_sections", lambda heads, threads, length: int(request.param.split()[1]))


def text(length: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(VOCABULARY), k=length)


def apart(models: Pair, runs: list[int]) -> ModelRunner:
    """A runner whose free blocks are `runs`, each between blocks that are held."""
    blocks = sum(runs) + len(runs) + 1
    runner = ModelRunner(models.runner.loaded, cache_bytes=blocks * models.runner.cache.block_bytes)
    pool, first = runner.cache.pool, 1
    pool.allocate(pool.count)
    for run in runs:
        pool.release(range(first, first + run))
        first += run + 1
    return runner


def agree(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def candidates(tree: Tree, seed: int = 5) -> list[int]:
    """Siblings have different tokens."""
    chance = random.Random(seed)
    found = [0] * len(tree)
    for children in tree.families.values():
        for child, token in zip(children, chance.sample(range(VOCABULARY), len(children)), strict=True):
            found[child] = token
    return found


def check(models: Pair, before: list[int], tree: Tree, tokens: list[int], logits: Tensor) -> None:
    """logits: after the text and after each candidate."""
    agree(logits[:1], models.expected(before, 1))
    for index in range(len(tree)):
        path = [tokens[at] for at in tree.path(index)]
        agree(logits[index + 1 : index + 2], models.expected(before + path, 1))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("runs", [[8], [1] * 8], ids=["one piece", "many pieces"])
@pytest.mark.parametrize("name", _TREES)
def test_each_path_has_the_logits_of_its_own_text(models: Pair, name: str, runs: list[int]) -> None:
    """Fed behind one new token, as a block is verified; over borders of blocks."""
    tree = Tree(_TREES[name])
    tokens, runner = candidates(tree), apart(models, runs)
    for length in (1, 14, 45):
        sequence, before = runner.open(), text(length, seed=length)
        if length > 1:
            runner.forward([Block(sequence, before[:-1], 0)])
        [logits] = runner.forward([Block(sequence, [before[-1], *tokens], 1 + len(tree), tree.parents)])
        check(models, before, tree, tokens, logits)
        sequence.close()


@pytest.mark.usefixtures("way")
def test_trees_and_texts_share_a_pass(models: Pair) -> None:
    runner = apart(models, [3, 3, 3, 3, 3])
    feeds = []
    for seed, parents in enumerate([[], *_TREES.values()]):
        tree, before, sequence = Tree(parents), text(20 + 3 * seed, seed), runner.open()
        runner.forward([Block(sequence, before[:-2], 0)])
        tokens = candidates(tree)
        feeds.append((before, tree, tokens, Block(sequence, [*before[-2:], *tokens], 1 + len(tree), tree.parents)))
    for (before, tree, tokens, _), logits in zip(feeds, runner.forward([feed[3] for feed in feeds]), strict=True):
        check(models, before, tree, tokens, logits)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("length", [15, 31, 40])
def test_the_path_that_is_kept_is_the_text(models: Pair, length: int) -> None:
    """Whichever path is kept, what follows it has the logits that it has without a tree."""
    tree, before = Tree(_TREES["deep and wide"]), text(length)
    tokens = candidates(tree)
    for last in (ROOT, 0, 2, 4, 5, 10, 19):
        runner = apart(models, [2, 3, 2])
        sequence = runner.open()
        runner.forward([Block(sequence, [*before, *tokens], 1 + len(tree), tree.parents)])
        path = [tokens[at] for at in tree.path(last)]
        follows = text(6, seed=9)
        follows[0] = next(token for token in range(VOCABULARY) if token not in tokens)
        sequence.keep_path([*before, *path, *follows])
        assert (sequence.tokens, sequence.cached) == (before + path, length + len(path))
        [logits] = runner.forward([Block(sequence, follows, 6)])
        agree(logits, models.expected([*before, *path, *follows], 6))
        sequence.close()


def test_a_tree_grows_level_by_level(models: Pair) -> None:
    """As a draft makes it: each pass takes the next level alone."""
    tree, before, runner = Tree(_TREES["binary"]), text(18), apart(models, [8])
    tokens, sequence = candidates(tree), runner.open()
    [root] = runner.forward([Block(sequence, before, 1)])
    rows = [root]
    for depth in range(tree.height):
        level = [index for index in range(len(tree)) if tree.depths[index] == depth]
        block = Block(sequence, [tokens[at] for at in level], len(level), [tree.parents[at] for at in level])
        rows += runner.forward([block])
    check(models, before, tree, tokens, torch.cat(rows))


def test_what_gave_way_amid_a_tree_is_run_again(models: Pair) -> None:
    tree, before, runner = Tree(_TREES["binary"]), text(34), apart(models, [8])
    tokens, sequence = candidates(tree), runner.open()
    runner.forward([Block(sequence, [*before, *tokens[:6]], 7, tree.parents[:6])])
    sequence.drop()
    [logits] = runner.forward([Block(sequence, tokens[6:], 3, tree.parents[6:])])
    for row, index in enumerate((6, 7, 8)):
        path = [tokens[at] for at in tree.path(index)]
        agree(logits[row : row + 1], models.expected(before + path, 1))
    path = [tokens[at] for at in tree.path(8)]
    sequence.drop()
    sequence.keep_path([*before, *path, 3])
    assert (sequence.tokens, sequence.cached) == (before + path, 0)


def test_a_fork_of_a_tree_keeps_its_own_path() -> None:
    """What one of them moves, the other does not see."""
    models = pair(CONFIGS["llama"])
    tree, before, runner = Tree(_TREES["binary"]), text(13), apart(models, [8])
    tokens, sequence = candidates(tree), runner.open()
    runner.forward([Block(sequence, [*before, *tokens], 10, tree.parents)])
    other = sequence.fork()
    for each, last in ((sequence, 8), (other, 6)):
        path = [tokens[at] for at in tree.path(last)]
        each.keep_path([*before, *path, 95])
        [logits] = runner.forward([Block(each, [*before, *path, 95][each.length :], 1)])
        agree(logits, models.expected([*before, *path, 95], 1))


def test_candidates_of_a_tree_are_not_found_by_others() -> None:
    """Their entries stand side by side, which no text's do."""
    models = pair(CONFIGS["llama"])
    tree, before, runner = Tree([ROOT] * 20), text(16), apart(models, [8])
    tokens, sequence, other = candidates(tree), runner.open(), runner.open()
    runner.forward([Block(sequence, before, 1)])
    runner.forward([Block(sequence, tokens, 1, tree.parents)])
    other.table.match([*before, *tokens], 36)
    assert other.cached == 16


def test_a_tree_takes_no_entries_of_a_text_with_the_same_tokens() -> None:
    """A text that goes on as the tree's tokens stand side by side has other entries."""
    models = pair(CONFIGS["llama"])
    before, tokens, runner = text(16), candidates(Tree([ROOT] * 20)), apart(models, [8])
    other, sequence = runner.open(), runner.open()
    runner.forward([Block(other, [*before, *tokens], 1)])
    sequence.extend([*before, *tokens], [ROOT] * 20)
    [(_, chunk)] = Scheduler(runner.cache.pool, Budget(tokens=64, rows=8)).plan([Task(sequence, 1)])
    assert (sequence.cached, chunk.count) == (16, 20)
    [logits] = runner.run([chunk])
    agree(logits, models.expected([*before, tokens[-1]], 1))


def test_a_tree_may_be_larger_than_what_the_context_leaves() -> None:
    """Its depth counts; where that does not fit it is refused."""
    models = pair(CONFIGS["llama"])
    runner, before = ModelRunner(load(copy.deepcopy(models.plain))), text(CONTEXT - 2)
    sequence = runner.open()
    tree = Tree([ROOT, ROOT, 0, 1, 1])
    tokens = candidates(tree)
    [logits] = runner.forward([Block(sequence, [*before, *tokens], 6, tree.parents)])
    check(models, before, tree, tokens, logits)
    with pytest.raises(ContextFullError, match=f"{CONTEXT + 1} tokens do not fit"):
        runner.forward([Block(runner.open(), [*before, 1, *tokens], 6, tree.parents)])


@pytest.mark.parametrize(
    ("before", "tokens", "parents"),
    [
        ((), [1], [ROOT, 0]),
        ((), [1, 2], [0, ROOT]),
        ((), [1, 2], [ROOT, 2]),
        ((ROOT,), [1], ()),
        ((ROOT,), [1, 2], [0]),
    ],
)
def test_parents_that_make_no_tree_are_refused(before: tuple[int, ...], tokens: list[int], parents: list[int]) -> None:
    runner = ModelRunner(load(copy.deepcopy(pair(CONFIGS["llama"]).plain)))
    sequence: Sequence = runner.open()
    runner.forward([Block(sequence, [5] * (1 + len(before)), 1, before)])
    with pytest.raises(ValueError):
        runner.forward([Block(sequence, tokens, 1, parents)])
    assert sequence.length == 1 + len(before)


class _Once(SingleWork):
    """One block through an engine."""

    def __init__(self, sequence: Sequence, tokens: list[int], rows: int, parents: tuple[int, ...]) -> None:
        self.sequence = sequence
        self.logits: Tensor | None = None
        self._feed = (tokens, rows, parents)

    def next_block(self) -> tuple[list[int], int, tuple[int, ...]] | None:
        return self._feed if self.logits is None else None

    def receive(self, logits: Tensor) -> None:
        self.logits = logits.clone()


async def test_an_engine_runs_a_tree_behind_a_long_prompt() -> None:
    """The prompt is run piece by piece; the tree stays together."""
    models = pair(CONFIGS["mistral, sliding window"])
    engine = Engine(ModelRunner(load(copy.deepcopy(models.plain))))
    engine.start()
    try:
        tree, before = Tree(_TREES["binary"]), text(90)
        tokens, sequence = candidates(tree), await engine.open()
        work = _Once(sequence, [*before, *tokens], 1 + len(tree), tree.parents)
        await engine.run(work)
        assert work.logits is not None
        check(models, before, tree, tokens, work.logits)
    finally:
        await engine.close()
