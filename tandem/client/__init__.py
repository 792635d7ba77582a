"""Python clients of an orchestrator: `Client`, which blocks, and `AsyncClient`. Neither needs torch."""

from __future__ import annotations

from tandem.client.accounts import RoundAccount, TokenAccount, TokenLogProbability
from tandem.client.answers import Choice, Completion, Delta
from tandem.client.async_stream import AsyncStream
from tandem.client.asynchronous import AsyncClient
from tandem.client.blocking import Client
from tandem.client.errors import BadInputError, BusyError, DeadlineError, UnavailableError
from tandem.client.options import Options
from tandem.client.prompts import Message, Tool, ToolCall
from tandem.client.reports import Finish, RoundTime, Speculation, Time, Usage
from tandem.client.retries import Retries
from tandem.client.services import Load, ModelInfo, Models, ServiceLoad, Tokens
from tandem.client.stream import Stream
from tandem.rpc.errors import TandemError

__all__ = [
    "AsyncClient", "AsyncStream", "BadInputError", "BusyError", "Choice", "Client", "Completion", "DeadlineError",
    "Delta", "Finish", "Load", "Message", "ModelInfo", "Models", "Options", "Retries", "RoundAccount", "RoundTime",
    "ServiceLoad", "Speculation", "Stream", "TandemError", "Time", "TokenAccount", "TokenLogProbability", "Tokens",
    "Tool", "ToolCall", "UnavailableError", "Usage",
]  # fmt: skip
