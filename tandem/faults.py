"""What goes wrong in an engine, as errors of the catalogue. Used by draft and target alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tandem.grammars import GrammarError
from tandem.inference.engine import DeadlinePassedError, EngineClosedError, EngineFullError
from tandem.inference.runner import CacheTooSmallError, ContextFullError
from tandem.rpc.errors import TandemError
from tandem.sampling import NotFiniteError


@contextmanager
def reported(side: str) -> Iterator[None]:
    """Raises TandemError for what an engine raises inside. side: `draft` or `target`, named in messages."""
    try:
        yield
    except GrammarError as error:
        raise TandemError.invalid_field("open.grammar", str(error)) from error
    except NotFiniteError as error:
        raise TandemError.not_finite() from error
    except ContextFullError as error:
        raise TandemError.invalid_field("round", str(error)) from error
    except CacheTooSmallError as error:
        raise TandemError.out_of_memory(f"{side}: {error}; its --cache-bytes sets the size") from error
    except EngineFullError as error:
        told, limit = f"{side}: {error}", {"limit": error.limit}
        raise TandemError.overloaded(told, retry_after=error.retry_after, metadata=limit) from error
    except DeadlinePassedError as error:  # gRPC says the same to the caller, a moment sooner or later
        raise TandemError.deadline_exceeded() from error
    except EngineClosedError as error:
        raise TandemError.shutting_down() from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise TandemError.out_of_memory(f"the {side}'s device is out of memory") from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error):  # how torch says it of a CPU
            raise TandemError.out_of_memory(f"the {side}'s machine is out of memory") from error
        raise
