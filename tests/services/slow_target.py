"""`python -m tests.services.slow_target`: the target service, with a model whose every pass takes a third of a second.

The time goes into real arithmetic, on one thread and outside the interpreter's lock, as in a model of that size.
"""

from __future__ import annotations

import time

import torch
from transformers import PreTrainedModel

SECONDS = 0.3


def slow_down(model: PreTrainedModel) -> None:
    matrix = torch.full((1024, 1024), 1e-3)

    def multiply(*_: object) -> None:
        until = time.perf_counter() + SECONDS
        while time.perf_counter() < until:
            torch.mm(matrix, matrix)  # some tens of milliseconds

    model.register_forward_pre_hook(multiply)


def main() -> None:
    from tandem.inference import serving
    from target_service.__main__ import main as serve

    load = serving.load_model

    def load_slow(*arguments: object, **keywords: object) -> object:
        loaded = load(*arguments, **keywords)
        slow_down(loaded.model)
        return loaded

    serving.load_model = load_slow
    serve()


if __name__ == "__main__":
    main()
