"""Log-probabilities in OpenAI's two forms. They are of the target itself, before the sampling chain, in nats."""

from __future__ import annotations

from typing import Any

from tandem.v1 import completion_pb2

# OpenAI's word for "less likely than can be said"; JSON has no infinity.
_LEAST = -9999.0


def chat_logprobs(response: completion_pb2.CompleteResponse) -> dict[str, Any] | None:
    """Of the response's tokens, as chat completions have them; None where they were not asked for."""
    if not response.log_probabilities:
        return None
    content = [
        {**_chat_entry(token), "top_logprobs": [_chat_entry(top) for top in token.top]}
        for token in response.log_probabilities
    ]
    return {"content": content, "refusal": None}


def text_logprobs(response: completion_pb2.CompleteResponse, offset: int) -> dict[str, Any] | None:
    """The same as legacy completions have them. offset: of the response's text in the whole, in characters."""
    if not response.log_probabilities:
        return None
    offsets = []
    for account in response.tokens:
        offsets.append(offset)
        offset += len(account.text)
    return {
        "tokens": [_name(token) for token in response.log_probabilities],
        "token_logprobs": [_value(token) for token in response.log_probabilities],
        # The token itself is among them, also where it is not one of the likeliest.
        "top_logprobs": [
            {_name(each): _value(each) for each in (*token.top, token)} for token in response.log_probabilities
        ],
        "text_offset": offsets,
    }


def _chat_entry(token: completion_pb2.TokenLogProbability) -> dict[str, Any]:
    return {"token": _name(token), "bytes": list(token.token) or None, "logprob": _value(token)}


def _value(token: completion_pb2.TokenLogProbability) -> float:
    return max(token.log_probability, _LEAST)


def _name(token: completion_pb2.TokenLogProbability) -> str:
    """The token's text; its bytes where they are no text, its id where it has no text at all."""
    if not token.token:
        return f"token_id:{token.token_id}"
    try:
        return token.token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.token)
