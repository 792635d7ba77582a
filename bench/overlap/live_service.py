"""`python -m bench.overlap.live_service ROLE MODEL COSTS`: a draft or target service that computes, no faster than the
device, in a process of its own. COSTS: fields of `Costs` as JSON. Prints its address, and at the end how many steps it
made and how many of them were late, as JSON; ends with SIGTERM."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace

from bench.overlap.costs import Costs
from bench.overlap.device import Device
from bench.overlap.service import STEP_TOKENS, device_of, serve_model
from tandem.serving import prepare_for_models

_CACHE_BYTES = 1 << 28


async def serve(role: str, model: str, costs: Costs, device: Device) -> None:
    """Raises ModelError."""
    from bench.overlap.paced import PacedRunner
    from tandem.grammars import Grammars
    from tandem.inference.engine import Engine, EngineLimits
    from tandem.inference.loading import load_model, tokenizer_folder
    from tandem.inference.serving import ServedModel
    from tandem.inference.threads import leave_threads_to_engine
    from tandem.models import resolve
    from tandem.tokenization import Tokenizer

    # One each: draft and target compute at the same time, and no step is to wait for a thread of the other's.
    threads = leave_threads_to_engine(1)
    folder = resolve(model, None)
    words = Tokenizer.from_folder(tokenizer_folder(folder))
    loaded = load_model(folder, dtype="bfloat16", device="cpu")
    loaded = replace(loaded, vocabulary_size=min(loaded.vocabulary_size, words.vocabulary_size))
    runner = PacedRunner(loaded, device, cache_bytes=_CACHE_BYTES)
    engine = Engine(runner, EngineLimits(step_tokens=STEP_TOKENS, ahead_rows=costs.draft_rows), threads=threads)
    await serve_model(role, ServedModel(engine, loaded, role, "", words.fingerprint, Grammars(words)))


def main() -> None:
    prepare_for_models()
    role, model, plain = sys.argv[1:]
    costs = Costs(**json.loads(plain))
    device = device_of(role, costs)
    asyncio.run(serve(role, model, costs, device))
    print(json.dumps({"steps": device.steps, "late": device.late}), flush=True)


if __name__ == "__main__":
    main()
