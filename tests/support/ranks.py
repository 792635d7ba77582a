"""Groups of processes as torchrun starts them, but quicker: each is forked off one that has imported torch already."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

#: Only against hanging.
SECONDS = 120.0

_T = TypeVar("_T")


class Rank:
    """One process. log: what it has written to stderr so far."""

    def __init__(self, module: str, flags: Sequence[str], variables: Mapping[str, str], log: Path) -> None:
        self._log = log
        self.process: Any = _context().Process(target=_run, args=(module, list(flags), dict(variables), str(log)))
        self.process.start()

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def end(self) -> int:
        """Waits for its end; the exit code, negative after a signal."""
        self.process.join(SECONDS)
        code = self.process.exitcode
        assert code is not None, f"has not ended: {self.log}"
        return int(code)

    def kill(self) -> None:
        if self.process.is_alive():
            self.process.kill()
        self.process.join()

    def port(self) -> int:
        """Where it serves, once it does."""
        return until(lambda: port_in(self.log), lambda: self.log)


@contextmanager
def group(
    module: str, folder: Path, *flags: str, world: int = 2, of_rank: Mapping[int, Sequence[str]] | None = None
) -> Iterator[list[Rank]]:
    """`world` processes of MODULE, whose `main` reads FLAGS. folder: for their logs. of_rank: flags of single ones."""
    # torchrun keeps the store in which they meet; here this process does.
    store = dist.TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=SECONDS), wait_for_workers=False)
    common = {
        "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
    }  # fmt: skip
    ranks: list[Rank] = []
    try:
        for rank in range(world):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            all_flags = [*flags, *(of_rank or {}).get(rank, ())]
            ranks.append(Rank(module, all_flags, common | own, folder / f"{rank}.log"))
        yield ranks
    finally:
        for each in ranks:
            each.kill()


def until(ask: Callable[[], _T | None], explain: Callable[[], str]) -> _T:
    """Asks until there is an answer."""
    deadline = time.monotonic() + SECONDS
    while (answer := ask()) is None:
        assert time.monotonic() < deadline, explain()
        time.sleep(0.02)
    return answer


def port_in(log: str) -> int | None:
    found = re.search(r"listening on 127\.0\.0\.1:(\d+)", log)
    return int(found[1]) if found else None


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.rank_imports"])
    return context


def _run(module: str, flags: list[str], variables: dict[str, str], log: str) -> None:
    """In the new process."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    for name in [name for name in os.environ if name.startswith("TANDEM_TARGET_")]:
        del os.environ[name]
    os.environ.update(variables)
    sys.argv = [module, *flags]
    importlib.import_module(module).main()
