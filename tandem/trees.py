"""Blocks that are trees: a flat list of candidates, each with the index of its parent. No tensors.

Token trees: SpecInfer (arXiv 2305.09781, section 3). A chain is a tree, in which each candidate follows the one before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

#: In the place of a parent: the text before the block.
ROOT = -1
#: Candidates of a block.
MOST_CANDIDATES = 64


class Tree:
    """parents: of each candidate, an index before its own, or ROOT. Siblings are in the order of their indices.

    depths: of each candidate, those above it; so it stands `depths` places behind the text. height: candidates of the
    longest path; 0 of an empty tree. Raises ValueError, naming the candidate, for a parent that does not come before.
    """

    def __init__(self, parents: Iterable[int] = ()) -> None:
        self.parents = tuple(parents)
        depths: list[int] = []
        for index, parent in enumerate(self.parents):
            if not ROOT <= parent < index:
                raise ValueError(f"the parent of candidate {index} must lie in [{ROOT}, {index}), not {parent}")
            depths.append(0 if parent == ROOT else depths[parent] + 1)
        self.depths = tuple(depths)
        self.height = max(depths, default=-1) + 1

    @classmethod
    def chain(cls, size: int) -> Tree:
        return cls(range(ROOT, size - 1))

    def __len__(self) -> int:
        return len(self.parents)

    @cached_property
    def families(self) -> dict[int, tuple[int, ...]]:
        """The children of each parent that has any, in the order of the first ones."""
        found: dict[int, list[int]] = {}
        for index, parent in enumerate(self.parents):
            found.setdefault(parent, []).append(index)
        return {parent: tuple(children) for parent, children in found.items()}

    @cached_property
    def family_of(self) -> tuple[int, ...]:
        """Of each candidate, the place of its family among `families`."""
        places = {parent: place for place, parent in enumerate(self.families)}
        return tuple(places[parent] for parent in self.parents)

    def children(self, parent: int) -> tuple[int, ...]:
        return self.families.get(parent, ())

    @property
    def is_chain(self) -> bool:
        return all(parent == index - 1 for index, parent in enumerate(self.parents))

    @property
    def is_level(self) -> bool:
        """Whether no candidate comes after one that is deeper."""
        return list(self.depths) == sorted(self.depths)

    @property
    def is_ordered(self) -> bool:
        """Whether siblings follow each other."""
        return all(children == tuple(range(children[0], children[-1] + 1)) for children in self.families.values())

    def is_path(self, path: Sequence[int]) -> bool:
        """Whether these are candidates from the text down, each the parent of the next."""
        above = ROOT
        for index in path:
            if not 0 <= index < len(self.parents) or self.parents[index] != above:
                return False
            above = index
        return True

    def path(self, index: int) -> list[int]:
        """Candidates from the text down to this one; of ROOT none."""
        found = []
        while index != ROOT:
            found.append(index)
            index = self.parents[index]
        return found[::-1]

    def follow(self, token_ids: Sequence[int], text: Iterable[int]) -> list[int]:
        """The path whose tokens are the first ones of `text`, as far as there is one. token_ids: of the candidates,
        siblings with different ones."""
        found, above = [], ROOT
        for token in text:
            below = next((child for child in self.children(above) if token_ids[child] == token), None)
            if below is None:
                break
            found.append(below)
            above = below
        return found

    def twins(self, token_ids: Sequence[int]) -> int | None:
        """The first candidate that has a token of an elder sibling; None where there is none."""
        seen: set[tuple[int, int]] = set()
        for index, (parent, token) in enumerate(zip(self.parents, token_ids, strict=True)):
            if (parent, token) in seen:
                return index
            seen.add((parent, token))
        return None

    def cut(self, size: int) -> Tree:
        """Its first candidates."""
        return Tree(self.parents[:size])

    def lower(self, height: int) -> Tree:
        """Without the candidates that have `height` or more above them; the others keep their order."""
        kept = [index for index, depth in enumerate(self.depths) if depth < height]
        places = {index: place for place, index in enumerate(kept)} | {ROOT: ROOT}
        return Tree(places[self.parents[index]] for index in kept)

    def positions(self, start: int) -> list[int]:
        """Absolute position of each candidate. start: of the first ones."""
        return [start + depth for depth in self.depths]

    @cached_property
    def lineage(self) -> list[list[bool]]:
        """[i][j]: whether candidate j is i or above it."""
        rows: list[list[bool]] = []
        for index, parent in enumerate(self.parents):
            row = list(rows[parent]) if parent != ROOT else [False] * len(self.parents)
            row[index] = True
            rows.append(row)
        return rows


#: No candidates: what is there is one text.
NO_TREE = Tree()
