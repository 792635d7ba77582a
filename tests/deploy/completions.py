"""What a caller sees while containers die and come back."""

from __future__ import annotations

import json
import time
import urllib.request

from tandem.client import Client
from tandem.client.answers import Completion
from tests.deploy.common import DRAFTED, PROMPT, REQUEST, complete, eventually, say
from tests.deploy.docker import Project


def check_grpc(client: Client, expected: Completion) -> None:
    found = complete(client, DRAFTED)
    report = found.finish.speculation
    assert found.text == expected.text and report.accepted_tokens > 0
    say(f"gRPC: {found.text[:60]!r}..., {report.accepted_tokens} tokens accepted, the text that the target alone gives")


def check_http(project: Project) -> None:
    url = f"http://{project.port('orchestrator', 7080)}/v1"
    with urllib.request.urlopen(f"{url}/models", timeout=60) as answer:
        model = json.load(answer)["data"][0]["id"]
    body = json.dumps({"model": model, "messages": PROMPT, "max_tokens": 24, "stream": True}).encode()
    request = urllib.request.Request(f"{url}/chat/completions", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        lines = [line.decode().removeprefix("data: ").strip() for line in answer if line.startswith(b"data: ")]
    assert lines[-1] == "[DONE]"
    pieces = [choice["delta"].get("content") or "" for line in lines[:-1] for choice in json.loads(line)["choices"]]
    assert len([piece for piece in pieces if piece]) > 1
    say(f"HTTP, {model}: {''.join(pieces)!r}")


def check_kill(project: Project, client: Client, expected: Completion) -> None:
    """The draft dies in the middle of a completion."""
    times, text = [time.monotonic()], ""
    killed = 0.0
    with client.stream(PROMPT, speculation=DRAFTED, timeout=600, **REQUEST) as stream:
        for count, delta in enumerate(stream, 1):
            times.append(time.monotonic())
            text += delta.text
            if count == 12:
                project.compose("kill", "--signal", "KILL", "draft")
                killed = time.monotonic()
                say(f"killed the draft after {len(text)} characters: {text!r}")
        found = stream.result()
    report = found.finish.speculation
    assert project.inspect(project.container("draft"))["State"]["Running"] is False
    assert report.accepted_tokens > 0 and report.draft_failures > 0 and report.plain_tokens > 0, report
    assert found.text == expected.text and found.finish.usage.completion_tokens == REQUEST["max_tokens"]
    pause = max(after - before for before, after in zip(times, times[1:], strict=False) if after > killed)
    say(
        f"finished with the same text as the target alone: {report.accepted_tokens} tokens accepted before,"
        f" {report.plain_tokens} by the target alone after, longest pause {pause:.2f} s"
    )
    alone = complete(client, DRAFTED)
    assert alone.text == expected.text and alone.finish.speculation.accepted_tokens == 0
    say("another completion without a draft: the same text")


def check_back(project: Project, client: Client, expected: Completion) -> None:
    """The draft is started again, and taken up."""
    project.compose("up", "--detach", "--no-build", "--wait", "draft")
    began = time.monotonic()

    def drafted() -> Completion:
        found = complete(client, DRAFTED)
        assert found.text == expected.text
        assert found.finish.speculation.accepted_tokens > 0
        return found

    found = eventually(drafted)
    seconds = time.monotonic() - began
    say(f"the draft is back: {found.finish.speculation.accepted_tokens} tokens accepted, {seconds:.1f} s after healthy")


def check_replicas(project: Project, client: Client, expected: Completion) -> None:
    """Two of each, found by their name; one dies."""
    project.compose("up", "--detach", "--no-build", "--wait", "--scale", "draft=2", "--scale", "target=2")

    def ready(service: str, count: int) -> None:
        line = f'tandem_upstream_replicas{{service="{service}",state="ready"}} {float(count)}'
        assert line in metrics(project), metrics(project)

    for service in ("draft", "target"):
        eventually(lambda service=service: ready(service, 2))
    assert complete(client, DRAFTED).text == expected.text
    say("scaled to two drafts and two targets; the orchestrator has found them")
    for service in ("draft", "target"):
        project.docker("kill", project.containers(service)[0])
        eventually(lambda service=service: ready(service, 1))
        found = eventually(lambda: complete(client, DRAFTED))
        assert found.text == expected.text
        say(f"killed one {service}: it is gone from the replicas, and completions go on")


def metrics(project: Project) -> str:
    ask = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:7090/metrics').read().decode())"
    return project.docker("exec", project.container("orchestrator"), "python", "-c", ask)
