"""One process of a group that plays the scenario with model after model. Flags: FOLDER of models, FILE for what rank 0
saw."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tandem.inference.loading import load_model
from tandem.inference.parallel.follower import FollowerRunner
from tandem.inference.parallel.group import Follower, Leader
from tandem.inference.parallel.leader import LeaderRunner
from tandem.inference.parallel.place import own_place
from tandem.models import resolve
from tests.inference.parallel_scenario import play

#: Of each process.
CACHE_BYTES = 1 << 20


def main() -> None:
    folder, file = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    place = own_place()
    assert place is not None
    device, results = torch.device("cpu"), {}
    group = Leader(place, device, {}) if place.leads else Follower(place, device, {})
    for path in sorted(folder.iterdir()):
        loaded = load_model(resolve(str(path)), dtype="float32", device="cpu", shards=place.world)
        if isinstance(group, Leader):
            runner = LeaderRunner(loaded, group, cache_bytes=CACHE_BYTES)
            held = sum(weight.to_local().numel() if hasattr(weight, "to_local") else weight.numel()
                       for weight in loaded.model.parameters())  # fmt: skip
            shape, entries = runner.cache.shape, runner.cache.capacity
            results[path.name] = play(runner) | {
                "shape": shape, "entries": entries, "held": held, "parameters": loaded.parameter_count
            }  # fmt: skip
            group.send(b"")
        else:
            FollowerRunner(loaded, group, cache_bytes=CACHE_BYTES).follow()
    if place.leads:
        torch.save(results, file)
    else:
        assert group.receive() == b""
    group.close()


if __name__ == "__main__":
    main()
