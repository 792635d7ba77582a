"""Python clients of an orchestrator: `Client`, which blocks, and `AsyncClient`. Neither needs torch."""

from __future__ import annotations

from tandem.client.accounts import RoundAccount, TokenAccount, TokenLogProbability
from tandem.client.answers import Choice, Completion, Delta
from tandem.client.async_stream import AsyncStream
from tandem.client.asynchronous import AsyncClient
from tandem.client.blocking import Client
from tandem.client.errors import AccessError, BadInputError, BusyError, DeadlineError, UnavailableError
from tandem.client.options import Options
from tandem.client.prompts import Message, Tool, ToolCall
from tandem.client.reports import Finish, LookAhead, Middle, RoundTime, Speculation, Time, Usage
from tandem.client.retries import Retries
from tandem.client.services import Load, ModelInfo, Models, Replica, ServiceLoad, Tokens
from tandem.client.stream import Stream
from tandem.rpc.errors import TandemError
from tandem.rpc.tls import ClientTls, TlsError

__all__ = [
    "AccessError", "AsyncClient", "AsyncStream", "BadInputError", "BusyError", "Choice", "Client", "ClientTls",
    "Completion", "DeadlineError", "Delta", "Finish", "Load", "LookAhead", "Message", "Middle", "ModelInfo", "Models",
    "Options", "Replica", "Retries", "RoundAccount", "RoundTime", "ServiceLoad", "Speculation", "Stream",
    "TandemError", "Time", "TlsError", "TokenAccount", "TokenLogProbability", "Tokens", "Tool", "ToolCall",
    "UnavailableError", "Usage",
]  # fmt: skip
