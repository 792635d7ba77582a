"""`python -m bench.overlap.service ROLE RECORDING COSTS [TURNS]`: a draft or target service that replays, in a process
of its own. COSTS: fields of `Costs` as JSON. TURNS: a file that services on one device share. Prints its address; ends
with SIGTERM."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench.overlap.costs import Costs
from bench.overlap.device import Device
from bench.overlap.recording import load
from bench.overlap.vocabulary import tokenizer
from tandem.rpc.server import Server
from tandem.serving import prepare_for_models
from tandem.v1 import draft_pb2_grpc, target_pb2_grpc

if TYPE_CHECKING:
    from tandem.inference.serving import ServedModel  # with torch

# As on a GPU: a step takes all that is there.
STEP_TOKENS = 2048
DRAFT, TARGET = "draft", "target"


async def serve(role: str, path: Path, costs: Costs, turns: Path | None = None) -> None:
    """Raises OSError, or ValueError for what is no recording."""
    import torch

    from bench.overlap.replay import Lines, ReplayRunner, draft_rows, target_rows
    from tandem.grammars import Grammars
    from tandem.inference.engine import Engine, EngineLimits
    from tandem.inference.serving import ServedModel
    from tandem.inference.turns import Turns

    torch.set_num_threads(1)
    recording = load(path)
    lines = Lines(recording)
    rows = (draft_rows if role == DRAFT else target_rows)(recording, lines)
    runner = ReplayRunner(rows, lines, device_of(role, costs))
    limits = EngineLimits(step_tokens=STEP_TOKENS, ahead_rows=costs.draft_rows)
    shared = None if turns is None else Turns(turns, keeps=role == DRAFT)  # as the services' own settings have it
    engine = Engine(runner, limits, threads=1, turns=shared)
    words = tokenizer()
    await serve_model(role, ServedModel(engine, runner.loaded, role, "", words.fingerprint, Grammars(words)))


def device_of(role: str, costs: Costs) -> Device:
    return Device(costs.draft_step if role == DRAFT else costs.target_step)


async def serve_model(role: str, served: ServedModel) -> None:
    """Until SIGTERM; starts and closes the engine. Prints the address."""
    from draft_service.drafters.model import ModelDrafter
    from draft_service.server import DraftServicer
    from tandem.wire import model_info
    from target_service.server import TargetServicer

    server = Server()
    if role == DRAFT:
        drafts = DraftServicer(ModelDrafter(served.engine, model_info(served)))
        server.add(draft_pb2_grpc.add_DraftServiceServicer_to_server, drafts, "tandem.v1.DraftService")
    else:
        verifies = TargetServicer(served.engine, model_info(served), served.grammars)
        server.add(target_pb2_grpc.add_TargetServiceServicer_to_server, verifies, "tandem.v1.TargetService")
    served.engine.start()
    try:
        await server.serve_forever(on_started=lambda port: print(server.address, flush=True))
    finally:
        await served.engine.close()


if __name__ == "__main__":
    prepare_for_models()
    role, recording, costs, *turns = sys.argv[1:]
    asyncio.run(serve(role, Path(recording), Costs(**json.loads(costs)), Path(turns[0]) if turns else None))
