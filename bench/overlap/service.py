"""`python -m bench.overlap.service ROLE RECORDING COSTS`: a draft or target service that replays, in a process of its
own. COSTS: fields of `Costs` as JSON. Prints its address; ends with SIGTERM."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from bench.overlap.costs import Costs
from bench.overlap.device import Device
from bench.overlap.recording import load
from bench.overlap.vocabulary import tokenizer
from tandem.rpc.server import Server
from tandem.serving import prepare_for_models
from tandem.v1 import draft_pb2_grpc, target_pb2_grpc

# As on a GPU: a step takes all that is there.
_STEP_TOKENS = 2048


async def serve(role: str, path: Path, costs: Costs) -> None:
    """Raises OSError, or ValueError for what is no recording."""
    import torch

    from bench.overlap.replay import Lines, ReplayRunner, draft_rows, target_rows
    from draft_service.drafters.model import ModelDrafter
    from draft_service.server import DraftServicer
    from tandem.grammars import Grammars
    from tandem.inference.engine import Engine, EngineLimits
    from tandem.inference.serving import ServedModel
    from tandem.wire import model_info
    from target_service.server import TargetServicer

    torch.set_num_threads(1)
    recording = load(path)
    lines = Lines(recording)
    rows = (draft_rows if role == "draft" else target_rows)(recording, lines)
    device = Device(costs.draft_step if role == "draft" else costs.target_step)
    runner = ReplayRunner(rows, lines, device)
    engine = Engine(runner, EngineLimits(step_tokens=_STEP_TOKENS, ahead_rows=costs.draft_rows), threads=1)
    words = tokenizer()
    served = ServedModel(engine, runner.loaded, role, "", words.fingerprint, Grammars(words))
    server = Server()
    if role == "draft":
        drafts = DraftServicer(ModelDrafter(engine, model_info(served)))
        server.add(draft_pb2_grpc.add_DraftServiceServicer_to_server, drafts, "tandem.v1.DraftService")
    else:
        verifies = TargetServicer(engine, model_info(served), served.grammars)
        server.add(target_pb2_grpc.add_TargetServiceServicer_to_server, verifies, "tandem.v1.TargetService")
    engine.start()
    try:
        await server.serve_forever(on_started=lambda port: print(server.address, flush=True))
    finally:
        await engine.close()


if __name__ == "__main__":
    prepare_for_models()
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2]), Costs(**json.loads(sys.argv[3]))))
