"""What those who run the service look at: health, metrics, the page, the description of the API."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.gateway.app import make_app
from orchestrator.gateway.page import FOLDER, add_page
from tandem.policies import policy_from_names
from tests.gateway.serving import LOSSLESS, Gateway, gateway, pair


async def metrics(served: Gateway) -> dict[tuple[str, ...], float]:
    """Values by name and labels' values, the labels in their alphabet's order."""
    answer = await served.http.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found[(sample.name, *(value for _, value in sorted(sample.labels.items())))] = sample.value
    return found


async def test_health_is_the_targets(served: Gateway) -> None:
    answer = await served.http.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert served.services.draft is not None
    await served.services.draft._stop(None)
    await asyncio.sleep(1.1)
    assert (await served.http.get("/healthz")).status_code == 200  # the target goes on alone
    await served.services.target._stop(None)
    assert (await served.http.get("/healthz")).status_code == 200  # for a second, what was found stands
    await asyncio.sleep(1.1)
    answer = await served.http.get("/healthz")
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert error["code"] == "target_unavailable" and "target" in error["message"]
    answer = await served.post("/v1/completions", {"model": "tiny", "prompt": "x"})
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert (await served.http.get("/v1/models")).status_code == 503
    load = (await served.http.get("/tandem/v1/load")).json()
    assert load.keys() == {"targets", "drafts"}  # no load of any
    assert {replica["state"] for replica in (*load["targets"], *load["drafts"])} == {"REPLICA_STATE_FAILED"}


async def test_many_who_ask_for_health_cost_one_question(served: Gateway) -> None:
    asked = 0
    check = served.completions.check

    async def counted() -> None:
        nonlocal asked
        asked += 1
        await check()

    served.completions.check = counted  # type: ignore[method-assign]
    answers = await asyncio.gather(*(served.http.get("/healthz") for _ in range(30)))
    assert {answer.status_code for answer in answers} == {200} and asked == 1


async def test_a_tokenizer_that_is_not_the_targets_is_told() -> None:
    from tests.support.tokens import byte_tokenizer

    async with gateway(*pair(), own=byte_tokenizer(200)) as served:
        for path in ("/healthz", "/v1/models", "/tandem/v1/models"):
            answer = await served.http.get(path)
            assert answer.status_code == 503 and answer.json()["error"]["code"] == "tokenizer_mismatch", answer.text


async def test_what_was_done_is_counted_on_both_faces(served: Gateway) -> None:
    policy = policy_from_names("fixed", "exact", max_tokens=3)
    by_grpc = await served.grpc(text="Hi", max_tokens=12, ignore_end_tokens=True, speculation=policy)
    by_http = await served.text("Hi", max_tokens=12, ignore_eos=True, temperature=0, speculation=LOSSLESS)
    await served.error("/v1/completions", {"model": "tiny", "prompt": "x", "top_p": 2})
    await served.error("/v1/completions", {"model": "tiny", "prompt": "x", "nonsense": 2})
    found = await metrics(served)
    assert found["tandem_requests_total", "ok", "grpc"] == 1
    assert found["tandem_requests_total", "ok", "/v1/completions"] == 1
    assert found["tandem_requests_total", "invalid_field", "/v1/completions"] == 1
    assert found["tandem_http_responses_total", "/v1/completions", "400"] == 2
    assert found["tandem_requests_in_progress", "grpc"] == 0
    assert found["tandem_completion_tokens_total",] == 24 and found["tandem_prompt_tokens_total",] == 4
    report, told = by_grpc.finish.speculation, by_http["metrics"]["speculative_decoding"]
    rules = "exact", "fixed"
    assert found["tandem_drafted_tokens_total", *rules] == report.drafted_tokens + told["num_draft_tokens"] > 0
    assert found["tandem_accepted_tokens_total", *rules] == report.accepted_tokens + told["num_accepted_draft_tokens"]
    assert found["tandem_verify_steps_total", *rules] == report.verify_steps + told["num_spec_steps"]
    assert found["tandem_mean_block_tokens_count", *rules] == 2
    for name in ("time_to_first_token", "time_per_output_token", "request_duration"):
        assert found[f"tandem_{name}_seconds_count", *rules] == 2
        assert 0 < found[f"tandem_{name}_seconds_sum", *rules] < 60
    first, whole = (found[f"tandem_{name}_seconds_sum", *rules] for name in ("time_to_first_token", "request_duration"))
    assert first < whole


async def test_labels_do_not_grow_with_what_callers_send(served: Gateway) -> None:
    before = None
    await metrics(served)
    for number in range(3):
        for path in (f"/v1/models/tiny{number}", f"/v1/x{number}", f"/playground/{number}.js", f"/{number}"):
            await served.http.get(path)
        await served.error("/v1/completions", {"model": f"m{number}", "prompt": "x"}, 404)
        await served.error("/v1/completions", {"model": "tiny", "prompt": "x", "speculation": f"p{number}"})
        series = {key for key in await metrics(served) if not key[0].endswith("_created")}
        assert before in (None, series)
        before = series


async def test_metrics_with_a_port_of_their_own_are_not_here() -> None:
    async with gateway(*pair()) as served:
        app = make_app(served.completions, tells_metrics=False)
        assert TestClient(app).get("/metrics").status_code == 404


async def test_the_page_comes_with_its_files_and_their_types(served: Gateway) -> None:
    index = await served.http.get("/")
    assert index.status_code == 200 and index.headers["content-type"].startswith("text/html")
    types = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    for file in FOLDER.iterdir():
        answer = await served.http.get(f"/playground/{file.name}")
        assert answer.status_code == 200 and answer.content == file.read_bytes()
        if file.suffix in types:
            assert answer.headers["content-type"].startswith(types[file.suffix])


def test_without_the_page_all_else_works(tmp_path: Path) -> None:
    app = FastAPI()
    add_page(app, tmp_path / "nowhere")
    assert TestClient(app).get("/").status_code == 404


async def test_the_description_of_the_api_has_every_parameter(served: Gateway) -> None:
    document = (await served.http.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    assert {"messages", "temperature", "speculation"} <= schemas["ChatParameters"]["properties"].keys()
    body = document["paths"]["/v1/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/TextParameters"}
    assert set(document["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == {"text/plain"}
    references = {part.split('"')[0] for part in json.dumps(document).split('"#/components/schemas/')[1:]}
    assert references <= schemas.keys()


async def test_draining_is_told_at_once_and_open_streams_end_within_the_grace() -> None:
    async with gateway(*pair(), grace_seconds=0.5) as served:
        body = {"model": "tiny", "prompt": "Hi", "stream": True, "max_tokens": 400, "ignore_eos": True}
        async with served.http.stream("POST", "/v1/completions", json=body) as short:
            began = time.perf_counter()
            draining = asyncio.create_task(served.server.drain())
            await short.aread()
            assert short.text.endswith("data: [DONE]\n\n") or '"code":"shutting_down"' in short.text
            await draining
        assert time.perf_counter() - began < 3
