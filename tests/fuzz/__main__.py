"""`python -m tests.fuzz --messages 100000 --seed 1`: says that many messages to the services, and reports.

Hostile orchestrators to a draft and to a target, hostile callers to an orchestrator, and hostile drafts and targets
behind it. Exits 1 on any INTERNAL, crash, hang, wrong text or leak. Two processes side by side.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.fuzz.report import Tally, table

#: Shares of the messages: those that are cheapest to say get the most.
_SHARES = {"servers": 0.04, "callers": 0.06, "target": 0.45, "draft": 0.45}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--messages", type=int, default=int(os.environ.get("TANDEM_FUZZ_EXAMPLES", "10000")))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=[*_SHARES], help="one part, with all of the messages")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each service instead of the table")
    options = parser.parse_args()
    if options.messages < 1:
        parser.error(f"--messages must be at least 1, not {options.messages}")
    if options.only is not None:
        tallies = asyncio.run(_part(options.only, options.messages, options.seed))
    else:
        with ThreadPoolExecutor(2) as pool:
            parts = pool.map(lambda part: _apart(part, round(options.messages * _SHARES[part]), options.seed), _SHARES)
            tallies = [tally for part in parts for tally in part]
    if options.json:
        for tally in tallies:
            print(json.dumps(tally.to_dict()))
    else:
        print(table(tallies))
    return int(any(tally.defects for tally in tallies))


async def _part(part: str, messages: int, seed: int) -> list[Tally]:
    # Imported here: who starts the parts needs no torch.
    from tests.fuzz import callers, scenes, services

    if part == "servers":
        expected, played = await scenes.known_texts(), scenes.scenes(seed)
        return [await scenes.play(scene, messages // len(played), expected) for scene in played]
    if part == "callers":
        return [await callers.fuzz(messages, seed)]
    return [await services.fuzz(part, messages, seed)]


def _apart(part: str, messages: int, seed: int) -> list[Tally]:
    """In a process of its own, whose end is a defect where it is not its own."""
    command = [sys.executable, "-m", "tests.fuzz", "--only", part, "--messages", str(max(1, messages)), "--json"]
    ended = subprocess.run([*command, "--seed", str(seed)], capture_output=True, text=True)
    lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    tallies = [Tally.from_dict(json.loads(line)) for line in lines]
    if ended.returncode not in (0, 1) or not tallies:
        tallies.append(Tally(part, defects=[f"crashed with {ended.returncode}: {ended.stderr[-1500:]}"]))
    return tallies


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
