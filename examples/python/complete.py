"""Streams a completion, meets an error, cancels another stream: by `tandem.Client`."""

from __future__ import annotations

import sys

import tandem
from tandem.client import BadInputError


def main(endpoint: str, prompt: str, max_tokens: int) -> None:
    with tandem.Client(endpoint, timeout=60.0) as client:
        with client.stream(prompt, max_tokens=max_tokens, speculation="exact") as stream:
            for delta in stream:
                print(delta.text, end="", flush=True)
            whole = stream.result()
        usage, drafted = whole.usage, whole.speculation.drafted_tokens
        accepted = f"{usage.accepted_prediction_tokens} of {drafted} drafted ones accepted"
        print(f"\nfinish: {whole.finish.reason}, {usage.completion_tokens} tokens, {accepted}")

        try:
            client.complete(prompt, max_tokens=0)
        except BadInputError as error:
            print(f"refused: {error.code.name}, reason {error.reason}, field {error.field}")

        tokens = 0
        with client.stream(prompt, max_tokens=10_000, ignore_end_tokens=True) as stream:
            for delta in stream:
                tokens += len(delta.token_ids)
                if tokens >= 8:
                    break  # leaving the `with` cancels the call
        print(f"cancelled: after {tokens} tokens")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 48)
