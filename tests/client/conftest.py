"""The three services behind a port, with small models; clients call them as they would any other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.tiny import tiny_llama
from tests.support.tokens import END, byte_tokenizer
from tests.support.trio import Trio, trio

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{% if m.name %}[{{ m.name }}]{% endif %}"
    "{% if m.tool_call_id %}({{ m.tool_call_id }}){% endif %}"
    "{% for c in m.tool_calls or [] %}<{{ c.id }} {{ c.function.name }} {{ c.function.arguments | tojson }}>"
    "{% endfor %};{% endfor %}{% for t in tools or [] %}{{ t.function | tojson }}{% endfor %}{{ mood or '' }}"
)
#: Long enough that a completion to its end outlasts what a test does to it.
CONTEXT = 32768
CLOSED = "127.0.0.1:1"  # port 1 needs privileges to listen on; nothing does


@pytest.fixture
async def services() -> AsyncIterator[Trio]:
    target = tiny_llama(5, vocabulary=257, context=CONTEXT)
    draft = tiny_llama(5, vocabulary=257, noise=0.1, context=CONTEXT)
    async with trio(target, draft, byte_tokenizer(257, template=TEMPLATE, ends=(END,))) as running:
        yield running


@pytest.fixture
def endpoint(services: Trio) -> str:
    return services.orchestrator.address


async def until_idle(services: Trio) -> None:
    """Waits until no sequence is left in the target; fails after seconds."""
    for _ in range(500):
        if services.target_engine.load().sequences == 0:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{services.target_engine.load().sequences} sequences are still there")
