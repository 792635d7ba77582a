"""A HumanEval problem (Chen et al., 2021, arXiv 2107.03374) and a model's completion of it as one program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: What begins after the function that is to be completed. A completion ends before the first of them.
STOPS = ("\nclass ", "\ndef ", "\n#", "\n@", "\nif ", "\nprint(", "\nassert ", "\nimport ", "\nfrom ", "\n```")


def cut(completion: str) -> str:
    """`completion` up to what does not belong to the function any more."""
    ends = [at for stop in STOPS if (at := completion.find(stop)) >= 0]
    return completion[: min(ends)] if ends else completion


def program(problem: Mapping[str, Any], completion: str) -> str:
    """What ends without an exception where the completed function passes the problem's tests.

    problem: a line of the data set. The tests come after the completion, so a `check` of its own is overwritten.
    """
    function = problem["prompt"] + cut(completion)
    return f"{function}\n\n{problem['test']}\n\ncheck({problem['entry_point']})\n"
