"""A small server of the completions protocol, as a process: not ready at once, and with a child of its own.

It answers a request only when as many have come as it may serve at once, which its flags say as vLLM's, SGLang's and
llama.cpp's do. Runs by itself: imports nothing of the project.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_CALLS_UNTIL_READY = 2


class Handler(BaseHTTPRequestHandler):
    together: threading.Barrier
    child: int
    nonsense = False
    calls = 0

    def do_GET(self) -> None:
        if self.path == "/pids":
            return self._answer(200, [os.getpid(), self.child])
        Handler.calls += 1
        self._answer(200 if self.calls > _CALLS_UNTIL_READY else 503, {"status": "loading"})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.nonsense:
            return self._answer(200, {"choices": []})
        if problem := _problem(self.path, request):
            return self._answer(400, {"error": problem})
        self.together.wait(timeout=30)
        token = sum(request["prompt"])
        choice: dict[str, Any] = {"index": 0, "text": f"{token} " * request["max_tokens"], "finish_reason": "length"}
        if request.get("return_token_ids"):
            choice["token_ids"] = [token] * request["max_tokens"]
        self._answer(200, {"choices": [choice], "usage": {"completion_tokens": request["max_tokens"]}})

    def _answer(self, code: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _problem(path: str, request: dict[str, Any]) -> str | None:
    prompt = request.get("prompt")
    if path != "/v1/completions" or not request.get("model"):
        return "no such endpoint or model"
    if not isinstance(prompt, list) or not all(isinstance(token, int) for token in prompt):
        return "prompt must be tokens"
    if request.get("max_tokens", 0) < 1:
        return "max_tokens must be at least 1"
    if request.get("temperature") != 0 or request.get("ignore_eos") is not True:
        return "this bench is greedy and goes on after the end"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-num-seqs", "--max-running-requests", "--parallel", dest="clients", type=int, default=1)
    parser.add_argument("--fail")
    parser.add_argument("--nonsense", action="store_true")
    flags, _ = parser.parse_known_args()
    if flags.fail is not None:
        raise RuntimeError(flags.fail)
    Handler.together = threading.Barrier(flags.clients)
    Handler.nonsense = flags.nonsense
    Handler.child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid
    ThreadingHTTPServer(("127.0.0.1", flags.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
