"""`tandem up` with a middle model and a budget of candidates: both reach the services that they are for."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from tandem.cli.services import Layout, LocalServices
from tandem.policies import policy_from_names
from tandem.v1 import completion_pb2, completion_pb2_grpc, policy_pb2
from tests.cli.processes import tandem
from tests.cli.test_services import refused


def complete(endpoint: str, stack: policy_pb2.Stack.ValueType | None) -> completion_pb2.CompleteOnceResponse:
    """By the target alone where no stack is named."""
    policy = policy_pb2.SpeculationPolicy(off=True)
    if stack is not None:
        policy = policy_from_names("fixed", "exact", max_tokens=8)
        policy.stack = stack
    request = completion_pb2.CompleteRequest(text="Hello", max_tokens=40, ignore_end_tokens=True, speculation=policy)
    with grpc.insecure_channel(endpoint) as channel:
        stub = completion_pb2_grpc.CompletionServiceStub(channel)
        return stub.CompleteOnce(completion_pb2.CompleteOnceRequest(completion=request), timeout=60)


def test_three_models_make_one_text(models: Path) -> None:
    layout = Layout(
        target_model=str(models / "target"), draft_model=str(models / "draft"), middle_model=str(models / "target"),
        dtype="float32", verify_budget="3",
    )  # fmt: skip
    with LocalServices(layout, show_logs=False) as services:
        assert set(services.ports) == {"target_service", "draft_service", "middle_service", "orchestrator"}
        alone = complete(services.endpoint, None)
        found = complete(services.endpoint, policy_pb2.STACK_BOTH)
    assert found.token_ids == alone.token_ids
    report = found.finish.speculation
    assert report.middle.verify_steps > 0 and report.draft_failures == 0
    # Of eight candidates the target verifies three, and keeps them, as the middle model is the same.
    assert report.unsubmitted_tokens > 0 and report.accepted_tokens == report.drafted_tokens


@pytest.mark.parametrize("budget", ["-1", "some"])
def test_a_budget_that_is_none_is_refused_with_its_flag(budget: str) -> None:
    assert "--verify-budget" in refused("target_service", "--verify-budget", budget)


def test_a_command_passes_the_budget_on(models: Path) -> None:
    done = tandem(
        "up", "--port", "0", "--target-port", "0", "--http-port", "0", "--target-model", models / "target",
        "--draft-model", "none", "--verify-budget", "some",
    )  # fmt: skip
    assert done.returncode == 2 and "--verify-budget" in done.stderr, done.stderr
