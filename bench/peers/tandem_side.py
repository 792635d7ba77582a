"""The sides of Tandem: a policy each, over services that several share."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Executor

from bench.peers.names import tandem_name
from bench.peers.side import Answer, Ids, SideError
from bench.policies import ALONE
from tandem.cli.client import Client
from tandem.cli.complete import gather
from tandem.cli.render import promise
from tandem.rpc.errors import TandemError
from tandem.v1 import completion_pb2, policy_pb2


class TandemSide:
    """speculates: whether its policy drafts at all. lossless: whether every report so far said so."""

    def __init__(
        self,
        policy_name: str,
        policy: policy_pb2.SpeculationPolicy,
        client: Client,
        draft_weights: str,
        calls: Executor,
    ) -> None:
        """calls: with room for as many callers as there are prompts at once."""
        self.name = tandem_name(policy_name, draft_weights)
        self.draft_weights = draft_weights
        self.speculates = policy_name != ALONE
        self.lossless = True
        self._policy = policy
        self._client = client
        self._calls = calls
        self._reports: dict[int, list[completion_pb2.SpeculationReport]] = defaultdict(list)

    async def complete(self, prompts: Sequence[Ids], tokens: int) -> list[Answer]:
        loop = asyncio.get_running_loop()
        calls = (loop.run_in_executor(self._calls, self._complete, prompt, tokens) for prompt in prompts)
        completions = await asyncio.gather(*calls)
        for _, report in completions:
            self.lossless &= not report.lossy
            self._reports[len(prompts)].append(report)
        return [answer for answer, _ in completions]

    def note(self, clients: int) -> str:
        reports = self._reports[clients]
        if not self.speculates or not reports:
            return ""
        accepted, steps = sum(r.accepted_tokens for r in reports), sum(r.verify_steps for r in reports)
        drafting = f"mean acceptance length {1 + accepted / steps:.2f}" if steps else "never drafted"
        failures = sum(report.draft_failures for report in reports)
        return f"{promise(reports[-1])}, {drafting}" + (f", the draft failed {failures} times" if failures else "")

    def _complete(self, prompt: Ids, tokens: int) -> tuple[Answer, completion_pb2.SpeculationReport]:
        request = completion_pb2.CompleteRequest(
            max_tokens=tokens, speculation=self._policy, ignore_end_tokens=True
        )
        request.tokens.ids.extend(prompt)
        request.sampling.temperature = 0
        try:
            whole = gather(self._client.complete(request), None, audit=False)
        except TandemError as error:
            raise SideError(error.message) from error
        return Answer(len(whole.token_ids), tuple(whole.token_ids)), whole.finish.speculation
