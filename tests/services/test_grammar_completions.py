"""Texts that a grammar describes, with speculation on: always whole, always as described, always the target's law."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from typing import Any

import jsonschema
import pytest

from tandem.v1 import completion_pb2
from tandem.v1.grammar_pb2 import Grammar, GrammarChoices, JsonObject
from tests.support.tiny import tiny_llama
from tests.support.tokens import END, byte_tokenizer, ids
from tests.support.trio import OFF, Trio, make_request, policy, trio

TOKENIZER = byte_tokenizer(257, ends=(END,))
POLICIES = [policy("fixed"), policy("adasd", "adasd"), policy("goodput", "coupled"), policy("adaedl", "ratio")]


@pytest.fixture
async def services():
    models = tiny_llama(3, vocabulary=257), tiny_llama(3, vocabulary=257, noise=0.1)
    async with trio(*models, TOKENIZER) as running:
        yield running


def random_schema(source: random.Random, depth: int = 0) -> dict[str, Any]:
    """Every text of it is short, so that a model of noise comes to its end."""
    kinds = ["string", "integer", "boolean", "null", "enum", "pattern", "const"]
    kind = source.choice(kinds + ["object", "array"] * (3 if depth == 0 else depth < 3))
    match kind:
        case "string":
            return {"type": "string", "maxLength": source.randint(0, 6)}
        case "integer":
            least = source.randint(-50, 50)
            return {"type": "integer", "minimum": least, "maximum": least + source.randint(0, 1000)}
        case "enum":
            return {"enum": source.sample(["red", "grün", 3, None, True, 'q"', 2.5], 3)}
        case "const":
            return {"const": {"a": [1, "b"]}}
        case "pattern":
            return {"type": "string", "pattern": source.choice(["^[a-c]{1,4}$", "^\\d{3}-\\d{2}$", "^(x|yy)z?$"])}
        case "array":
            most = source.randint(0, 3)
            return {"type": "array", "items": random_schema(source, depth + 1), "minItems": 0, "maxItems": most}
        case "object":
            names = source.sample(["a", "name", "größe", "x y", "z"], source.randint(1, 3))
            fields = {name: random_schema(source, depth + 1) for name in names}
            needed = source.sample(names, source.randint(0, len(names)))
            return {"type": "object", "properties": fields, "required": needed, "additionalProperties": False}
    return {"type": kind}


async def test_200_random_prompts_and_schemas_give_json_that_validates(services: Trio) -> None:
    source, whole = random.Random(0), 0
    # A model of noise would fill its context with white space.
    terse = {token: -20.0 for token in ids(" \n\t\r")}
    for number in range(200):
        schema = random_schema(source)
        prompt = [source.randrange(1, 257) for _ in range(source.randint(1, 30))]
        found = await services.complete(
            prompt,
            policy=POLICIES[number % len(POLICIES)],
            max_tokens=450,
            sampling={"temperature": source.choice([0.0, 0.7, 1.0]), "seed": number, "logit_bias": terse},
            grammar=Grammar(json_schema=json.dumps(schema)),
        )
        assert found.finish.reason == completion_pb2.FINISH_REASON_STOP, (schema, found.text)
        jsonschema.validate(json.loads(found.text), schema)
        whole += found.finish.speculation.accepted_tokens
    assert whole > 1000  # speculation was on, and of use


@pytest.mark.parametrize("each", POLICIES, ids=lambda each: f"{each.stop.WhichOneof('rule')}")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_regex_lark_and_choices_hold_under_every_policy(services: Trio, each: Any, temperature: float) -> None:
    grammars = {
        r"[a-f]{2,5}\.[0-9]+x": Grammar(regex=r"[a-f]{2,5}\.[0-9]{1,4}x"),
        r"(\(\d+\))+|\d+": Grammar(lark="start: item+ | /[0-9]{1,3}/\nitem: \"(\" /[0-9]{1,2}/ \")\"\n"),
        "yes|no|perhaps": Grammar(choices=GrammarChoices(texts=["yes", "no", "perhaps"])),
    }
    for pattern, grammar in grammars.items():
        for seed in range(4):
            found = await services.complete(
                [5, 6], policy=each, max_tokens=200, grammar=grammar,
                sampling={"temperature": temperature, "seed": seed},
            )  # fmt: skip
            if found.finish.reason == completion_pb2.FINISH_REASON_STOP:
                assert re.fullmatch(pattern, found.text), found.text
            else:
                assert pattern.startswith(r"(\(")  # items may go on


@pytest.mark.parametrize("rule", ["exact", "ratio", "block", "coupled"])
async def test_lossless_with_a_grammar_equals_target_only(services: Trio, rule: str) -> None:
    grammar = Grammar(json_object=JsonObject())
    for seed in range(6):
        for sampling in ({}, {"temperature": 1.0, "top_p": 0.9, "seed": seed}):
            if sampling and rule != "coupled":
                continue  # equal in law only, see below
            alone = await services.complete([5, seed], max_tokens=60, sampling=sampling, grammar=grammar)
            found = await services.complete(
                [5, seed], policy=policy("fixed", rule), max_tokens=60, sampling=sampling, grammar=grammar
            )
            assert found.token_ids == alone.token_ids


async def test_the_law_of_choices_is_the_targets(services: Trio) -> None:
    """Chi-squared over three texts at 1e-4: a false alarm in 10,000 runs."""
    grammar = Grammar(choices=GrammarChoices(texts=["ab", "ac", "ad"]))
    counts = []
    for each in (OFF, policy("fixed", "ratio")):
        found = Counter[str]()
        for block in range(10):
            answer = await services.complete(
                [5, 6], policy=each, max_tokens=8, n=60, grammar=grammar,
                sampling={"temperature": 1.5, "seed": 1000 * (each == OFF) + block},
            )  # fmt: skip
            found.update(choice.text for choice in (answer, *answer.more_choices))
        counts.append(found)
    alone, drafted = counts
    assert set(alone) | set(drafted) <= {"ab", "ac", "ad"}
    statistic = sum((alone[text] - drafted[text]) ** 2 / max(1, alone[text] + drafted[text]) for text in alone)
    assert statistic < 18.4, counts  # 2 degrees of freedom


async def test_forced_tokens_are_accepted_without_exception(services: Trio) -> None:
    text = "the only text there is"
    grammar = Grammar(choices=GrammarChoices(texts=[text]))
    for each in POLICIES:
        for temperature in (0.0, 1.0):
            found = await services.complete(
                [5, 6], policy=each, max_tokens=60, grammar=grammar, sampling={"temperature": temperature}, audit=True
            )
            assert found.text == text
            assert found.finish.speculation.draft_acceptance_rate in (0.0, 1.0)
            assert all(not token.HasField("rejected_token_id") for token in found.tokens)


async def test_what_cannot_be_honoured_beside_a_grammar_is_refused_by_its_field(services: Trio) -> None:
    grammar = Grammar(regex="a+")
    for field, fields in {
        "min_tokens": {"min_tokens": 2},
        "ignore_end_tokens": {"ignore_end_tokens": True},
        "sampling.logit_bias": {"sampling": {"logit_bias": {3: float("-inf")}}},
    }.items():
        assert (await services.refusal(make_request([1], grammar=grammar, **fields))).field == field
    refused = await services.refusal(make_request([1], grammar=Grammar(regex="(a")))
    assert refused.field == "grammar.regex" and refused.reason == "INVALID_FIELD"


async def test_a_model_without_an_end_has_no_grammars() -> None:
    async with trio(tiny_llama(3, vocabulary=257), None, byte_tokenizer(257)) as services:
        refused = await services.refusal(make_request([1], grammar=Grammar(regex="a")))
        assert (refused.reason, refused.field) == ("NOT_SUPPORTED", "grammar")
