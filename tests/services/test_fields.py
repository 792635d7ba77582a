"""Every field that a caller may set changes the outcome as the contract says; none is ignored.

The walk over the messages' fields fails for one that no case here covers, a new one among them.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor

from tandem.v1 import completion_pb2, policy_pb2
from tandem.v1.completion_pb2 import CompleteRequest
from tests.support.tiny import tiny_llama
from tests.support.tokens import END, byte_tokenizer, ids
from tests.support.trio import OFF, Trio, make_request, policy, trio

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}"
    "{% if m.name %}[{{ m.name }}]{% endif %}{% if m.tool_call_id %}({{ m.tool_call_id }}){% endif %}"
    "{% for c in m.tool_calls or [] %}<{{ c.id }} {{ c.function.name }} "
    "{{ c.function.arguments | tojson }}>{% endfor %}"
    ";{% endfor %}{% for t in tools or [] %}{{ t.function | tojson }}{% endfor %}{{ mood or '' }}"
)
TOKENIZER = byte_tokenizer(257, template=TEMPLATE, ends=(END,))
PROMPT = [7, 8, 9]
SAMPLED = {"temperature": 1.0, "seed": 5}

Case = Callable[[Trio], Awaitable[None]]
CASES: dict[str, list[Case]] = {}


def covers(*paths: str) -> Callable[[Case], Case]:
    def register(case: Case) -> Case:
        for path in paths:
            CASES.setdefault(path, []).append(case)
        return case

    return register


def fields_of(message: Descriptor, prefix: str = "") -> set[str]:
    """Paths of all fields without fields of their own; an empty message counts as one."""
    found: set[str] = set()
    for field in message.fields:
        path, inner = f"{prefix}{field.name}", field.message_type
        if inner is None or inner.GetOptions().map_entry or not inner.fields:
            found.add(path)
        else:
            found |= fields_of(inner, f"{path}.")
    return found


def test_every_field_of_a_request_has_a_case() -> None:
    wanted = fields_of(CompleteRequest.DESCRIPTOR)
    wanted |= {f"tokenize.{name}" for name in fields_of(completion_pb2.TokenizeRequest.DESCRIPTOR)}
    wanted |= {f"detokenize.{name}" for name in fields_of(completion_pb2.DetokenizeRequest.DESCRIPTOR)}
    wanted = {path.replace("tokenize.chat.", "chat.") for path in wanted}  # one code for both
    assert fields_of(completion_pb2.CompleteOnceRequest.DESCRIPTOR, "") == {
        f"completion.{name}" for name in fields_of(CompleteRequest.DESCRIPTOR)
    }
    assert wanted - CASES.keys() == set()
    assert CASES.keys() - wanted == set()


@pytest.fixture
async def services():
    models = tiny_llama(5, vocabulary=257), tiny_llama(5, vocabulary=257, noise=0.1)
    async with trio(*models, TOKENIZER) as running:
        yield running


async def test_it_changes_the_outcome_as_stated(case: str, services: Trio) -> None:
    await next(each for cases in CASES.values() for each in cases if each.__name__ == case)(services)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Once all cases below are known."""
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", sorted({each.__name__ for cases in CASES.values() for each in cases}))


async def text(services: Trio, **fields: Any) -> list[int]:
    return list((await services.complete(PROMPT, **{"max_tokens": 24, **fields})).token_ids)


async def prompt_of(services: Trio, request: CompleteRequest) -> completion_pb2.CompleteOnceResponse:
    request.max_tokens, request.echo, request.return_prompt_token_ids = 1, True, True
    return await services.stub.CompleteOnce(completion_pb2.CompleteOnceRequest(completion=request))


# The prompt.


@covers("text", "tokens.ids", "echo", "return_prompt_token_ids")
async def text_and_tokens_are_the_same_prompt(services: Trio) -> None:
    by_text = await prompt_of(services, CompleteRequest(text="Hé"))
    by_tokens = await prompt_of(services, make_request(ids("Hé")))
    assert list(by_text.prompt_token_ids) == list(by_tokens.prompt_token_ids) == ids("Hé")
    assert by_text.text == by_tokens.text and by_text.text.startswith("Hé")
    assert by_text.token_ids == by_tokens.token_ids


@covers(
    "chat.messages.role", "chat.messages.content", "chat.messages.name", "chat.messages.tool_call_id",
    "chat.messages.tool_calls.id", "chat.messages.tool_calls.name", "chat.messages.tool_calls.arguments_json",
    "chat.tools.name", "chat.tools.description", "chat.tools.parameters_json", "chat.template_arguments_json",
)  # fmt: skip
async def every_part_of_a_conversation_reaches_the_template(services: Trio) -> None:
    request = CompleteRequest()
    request.chat.messages.add(role="user", content="Hi", name="Ann")
    call = request.chat.messages.add(role="assistant").tool_calls.add(id="c1", name="look")
    call.arguments_json = '{"at": [1]}'
    request.chat.messages.add(role="tool", content="found", tool_call_id="c1")
    request.chat.tools.add(name="look", description="Looks.", parameters_json='{"type": "object"}')
    request.chat.template_arguments_json = '{"mood": "calm"}'
    found = await prompt_of(services, request)
    tool = json.dumps({"name": "look", "description": "Looks.", "parameters": {"type": "object"}})
    expected = f'user:Hi[Ann];assistant:<c1 look {{"at": [1]}}>;tool:found(c1);{tool}calm'
    assert found.text.startswith(expected)
    tokenized = await services.stub.Tokenize(completion_pb2.TokenizeRequest(chat=request.chat))
    assert tokenized.token_ids == found.prompt_token_ids == ids(expected)


@covers("chat.tools.name", "chat.template_arguments_json")
async def what_a_template_does_not_use_is_refused(services: Trio) -> None:
    for arguments in ('{"nobody": 1}', '{"messages": []}', "[]", "{"):
        request = CompleteRequest()
        request.chat.messages.add(role="user", content="Hi")
        request.chat.template_arguments_json = arguments
        assert (await services.refusal(request)).field in ("chat", "chat.template_arguments_json")


# The length and the end.


@covers("max_tokens")
async def it_ends_there(services: Trio) -> None:
    assert len(await text(services, max_tokens=5, ignore_end_tokens=True)) == 5


@covers("min_tokens", "ignore_end_tokens", "sampling.logit_bias", "stop_token_ids")
async def ends_come_where_they_may(services: Trio) -> None:
    to_the_end = {"logit_bias": {END: 1e4}}
    assert await text(services, sampling=to_the_end) == [END]
    later = await text(services, sampling=to_the_end, min_tokens=4)
    assert len(later) == 5 and later[-1] == END and END not in later[:-1]
    assert await text(services, sampling=to_the_end, ignore_end_tokens=True) == [END] * 24
    assert await text(services, sampling={"logit_bias": {9: 1e4}}, stop_token_ids=[9]) == [9]


@covers("stop", "include_stop")
async def a_stop_text_ends_it(services: Trio) -> None:
    bias = {"logit_bias": {ids("a")[0]: 1e4}}
    cut = await services.complete(PROMPT, max_tokens=9, sampling=bias, stop=["aaa"])
    shown = await services.complete(PROMPT, max_tokens=9, sampling=bias, stop=["aaa"], include_stop=True)
    assert (cut.text, shown.text) == ("", "aaa") and cut.finish.stop == shown.finish.stop == "aaa"


# The sampling chain.


@covers("sampling.temperature", "sampling.seed")
async def a_seed_gives_one_text_above_temperature_0(services: Trio) -> None:
    texts = [tuple(await text(services, sampling={"temperature": 1.0, "seed": seed})) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert tuple(await text(services, sampling={"temperature": 0.0, "seed": 1})) not in texts


@covers("sampling.top_k", "sampling.top_p", "sampling.min_p")
async def a_narrow_cut_leaves_the_likeliest_token(services: Trio) -> None:
    greedy = await text(services)
    for cut in ({"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}):
        assert await text(services, sampling={**SAMPLED, **cut}) == greedy
    assert await text(services, sampling=SAMPLED) != greedy


@covers("sampling.repetition_penalty", "sampling.presence_penalty", "sampling.frequency_penalty")
async def a_penalty_changes_what_is_repeated(services: Trio) -> None:
    favourites = {token: 100.0 for token in (20, 21)}

    async def most_common(**penalties: float) -> int:
        found = await text(services, sampling={"logit_bias": favourites, **penalties}, max_tokens=20)
        return max(map(found.count, found))

    assert await most_common(presence_penalty=-2.0, frequency_penalty=-2.0) >= 18  # it is not left again
    assert await most_common(frequency_penalty=2.0) < 18
    plain_text = await text(services, max_tokens=60)
    assert len(set(plain_text)) < len(set(await text(services, max_tokens=60, sampling={"presence_penalty": 2.0})))
    assert await most_common(repetition_penalty=1000.0) < 18


# What is told.


@covers("log_probabilities", "audit")
async def accounts_are_told_where_asked_for(services: Trio) -> None:
    plain = await services.complete(PROMPT, max_tokens=8)
    told = await services.complete(PROMPT, max_tokens=8, log_probabilities=2, audit=True)
    assert not plain.tokens and not plain.log_probabilities
    assert len(told.tokens) == len(told.log_probabilities) == len(told.token_ids)
    assert all(len(entry.top) == 2 for entry in told.log_probabilities)


@covers("request_id")
async def the_name_comes_back(services: Trio) -> None:
    assert (await services.complete(PROMPT, max_tokens=1, request_id="mine")).request_id == "mine"
    drawn = [(await services.complete(PROMPT, max_tokens=1)).request_id for _ in range(2)]
    assert drawn[0] and drawn[0] != drawn[1]


@covers("resume.ids")
async def a_completion_goes_on_after_the_tokens_that_it_has(services: Trio) -> None:
    whole = await services.complete(PROMPT, max_tokens=12)
    had = completion_pb2.TokenIds(ids=whole.token_ids[:5])
    rest = await services.complete(PROMPT, max_tokens=12, resume=had)
    assert [*had.ids, *rest.token_ids] == list(whole.token_ids)
    assert rest.text and whole.text.endswith(rest.text)
    unknown = completion_pb2.TokenIds(ids=[1, 257])
    assert (await services.refusal(make_request(PROMPT, max_tokens=12, resume=unknown))).field == "resume.ids[1]"


@covers("n")
async def there_are_n_choices(services: Trio) -> None:
    found = await services.complete(PROMPT, max_tokens=8, n=3, sampling=SAMPLED)
    assert len(found.more_choices) == 2
    for n in (0, -1, 65):
        assert (await services.refusal(make_request(PROMPT, n=n, sampling=SAMPLED))).field == "n"
    assert (await services.refusal(make_request(PROMPT, n=2))).field == "n"


@covers("priority")
async def a_priority_reaches_both_engines(services: Trio) -> None:
    """What it does there is tested where engines are (tests/inference/test_priority.py)."""
    ranks = []
    for engine in (services.target_engine, services.draft_engine):
        assert engine is not None
        scheduler = engine._scheduler
        add = scheduler.add
        scheduler.add = lambda sequence, add=add: (ranks.append(sequence.rank[0]), add(sequence))[1]  # type: ignore[method-assign]
    await text(services, policy=policy("fixed"), priority=7)
    assert ranks == [-7, -7]
    assert (await services.refusal(make_request(PROMPT, priority=101))).field == "priority"


# What the text has to be; tests/services/test_grammar_completions.py has more.


@covers("grammar.json_schema", "grammar.regex", "grammar.lark", "grammar.choices.texts", "grammar.json_object")
async def a_grammar_is_followed(services: Trio) -> None:
    for grammar, fits in {
        json.dumps({"json_schema": '{"const": 12}'}): lambda found: json.loads(found) == 12,
        json.dumps({"regex": "[xy]{3}"}): lambda found: len(found) == 3 and set(found) <= set("xy"),
        json.dumps({"lark": 'start: "abc"'}): lambda found: found == "abc",
        json.dumps({"choices": {"texts": ["one", "two"]}}): lambda found: found in ("one", "two"),
        json.dumps({"json_object": {}}): lambda found: found.startswith("{"),
    }.items():
        found = await services.complete(PROMPT, max_tokens=60, grammar=json.loads(grammar), policy=policy("fixed"))
        assert fits(found.text), (grammar, found.text)


# The policy.


async def report(services: Trio, each: policy_pb2.SpeculationPolicy, **fields: Any) -> completion_pb2.SpeculationReport:
    fields = {"max_tokens": 60, "ignore_end_tokens": True, **fields}
    return (await services.complete(PROMPT, policy=each, **fields)).finish.speculation


@covers("speculation.off")
async def off_drafts_nothing(services: Trio) -> None:
    assert (await report(services, OFF)).drafted_tokens == 0
    assert (await report(services, policy_pb2.SpeculationPolicy())).drafted_tokens > 0


@covers("speculation.stack")
async def stack_is_served_or_refused(services: Trio) -> None:
    rules = policy("fixed", "exact")
    rules.stack = policy_pb2.STACK_DRAFT
    assert (await report(services, rules)).drafted_tokens > 0
    for stack in (policy_pb2.STACK_MIDDLE, policy_pb2.STACK_BOTH):  # without a middle model; with one: test_stack.py
        rules.stack = stack
        error = await services.refusal(make_request(PROMPT, speculation=rules, max_tokens=4))
        assert (error.reason, error.field) == ("NOT_SUPPORTED", "speculation.stack")


@covers("speculation.look_ahead")
async def nothing_is_foreseen_where_0_outcomes_may_be(services: Trio) -> None:
    rules = policy("fixed", "exact")
    assert (await report(services, rules)).HasField("look_ahead")
    rules.look_ahead = 0
    assert not (await report(services, rules)).HasField("look_ahead")


@covers("speculation.tree.nodes", "speculation.tree.width")
async def blocks_are_trees_of_so_many_candidates(services: Trio) -> None:
    async def blocks(width: int) -> list[int]:
        rules = policy("fixed", "exact", tree_nodes=6, tree_width=width)
        request = make_request(PROMPT, speculation=rules, max_tokens=60, ignore_end_tokens=True, audit=True)
        found = [message.round async for message in services.stub.Complete(request) if message.HasField("round")]
        return [len(each.parents) for each in found]

    assert max(await blocks(3)) == 6
    assert await blocks(1) and not any(await blocks(1))


@covers(*(f"speculation.stop.{rule}" for rule in ("fixed", "goodput")), "speculation.stop.max_tokens")
async def a_stop_rule_is_the_one_that_was_asked_for(services: Trio) -> None:
    found = await report(services, policy("fixed", max_tokens=7))
    assert found.stop_rule == "fixed" and len(found.accepted_at) == 7
    assert (await report(services, policy("goodput"))).stop_rule == "goodput"
    assert len((await report(services, policy("goodput", max_tokens=2))).accepted_at) <= 2


@covers("speculation.stop.adasd.cold_max_tokens")
async def blocks_are_that_short_before_the_first_rejection(services: Trio) -> None:
    found = await report(services, policy("adasd", "jsd", cold_max_tokens=2, threshold=1.0), sampling=SAMPLED)
    assert len(found.accepted_at) == 2  # everything is let through: nothing is ever rejected


@covers("speculation.stop.adaedl.initial_lambda", "speculation.stop.adaedl.gamma")
async def lambda_and_gamma_decide_how_long_blocks_are(services: Trio) -> None:
    long = await report(services, policy("adaedl", initial_lambda=0.0, gamma=0.01))
    short = await report(services, policy("adaedl", initial_lambda=1.0, gamma=0.2))
    wide = await report(services, policy("adaedl", initial_lambda=0.5, gamma=100.0))
    assert len(long.accepted_at) > max(len(short.accepted_at), len(wide.accepted_at))


@covers("speculation.stop.confidence.initial_threshold")
async def a_threshold_of_1_drafts_one_at_a_time(services: Trio) -> None:
    found = await report(services, policy("confidence", initial_threshold=1.0), max_tokens=6)
    assert len(found.accepted_at) == 1
    assert len((await report(services, policy("confidence", initial_threshold=0.0), max_tokens=30)).accepted_at) == 20


@covers("speculation.stop.draft_verify.initial_min_probability")
async def a_probability_of_1_drafts_one_at_a_time(services: Trio) -> None:
    found = await report(services, policy("draft-verify", initial_min_probability=1.0), max_tokens=6)
    assert len(found.accepted_at) == 1
    long = await report(services, policy("draft-verify", initial_min_probability=0.0), max_tokens=30)
    assert len(long.accepted_at) == 12


@covers("speculation.stop.joint_confidence.max_failure")
async def a_chance_of_failure_of_0_drafts_one_at_a_time(services: Trio) -> None:
    assert len((await report(services, policy("joint-confidence", max_failure=0.0))).accepted_at) == 1
    assert len((await report(services, policy("joint-confidence", max_failure=1.0), max_tokens=30)).accepted_at) == 20


@covers("speculation.stop.bandit", "speculation.stop.tiers")
async def the_bandit_and_the_tiers_have_their_own_lengths(services: Trio) -> None:
    found = await report(services, policy("tiers"), max_tokens=6)
    assert (found.stop_rule, len(found.accepted_at)) == ("tiers", 3) and "accepted" in found.thresholds
    found = await report(services, policy("bandit", max_tokens=3))
    assert found.stop_rule == "bandit" and len(found.accepted_at) <= 3 and "arm" in found.thresholds


@covers("speculation.stop.named.name", "speculation.stop.named.options")
async def a_stop_rule_can_be_had_by_its_name(services: Trio) -> None:
    found = await report(services, policy("named:entropy", max_entropy=0.0))
    assert found.stop_rule == "entropy" and len(found.accepted_at) == 1


@covers("speculation.accept.named.name", "speculation.accept.named.options")
async def an_accept_rule_can_be_had_by_its_name(services: Trio) -> None:
    found = await report(services, policy("fixed", "named:jsd", threshold=1.0))
    typed = await report(services, policy("fixed", "jsd", threshold=1.0))
    assert (found.accept_rule, found.lossy_tokens) == ("jsd", typed.lossy_tokens) and found.lossy_tokens > 0


@covers("speculation.stop.entropy.max_entropy")
async def a_ceiling_of_0_drafts_one_at_a_time(services: Trio) -> None:
    assert len((await report(services, policy("entropy", max_entropy=0.0))).accepted_at) == 1
    assert len((await report(services, policy("entropy", max_entropy=100.0))).accepted_at) == 40


@covers(*(f"speculation.accept.{rule}" for rule in ("exact", "ratio", "block", "coupled")))
async def lossless_rules_let_nothing_through(services: Trio) -> None:
    alone = await text(services, sampling=SAMPLED)
    for rule in ("exact", "ratio", "block", "coupled"):
        found = await services.complete(PROMPT, policy=policy("fixed", rule), max_tokens=24, sampling=SAMPLED)
        told = found.finish.speculation
        assert not told.lossy and told.lossy_tokens == 0 and told.drafted_tokens > 0
        assert told.accept_rule == ("block" if rule == "exact" else rule) or told.accept_rule == rule
        assert (list(found.token_ids) == alone) == (rule == "coupled")


async def let_through(services: Trio, rule: str, **options: float) -> int:
    """How many tokens."""
    fields = {"sampling": SAMPLED} if rule == "tolerance" else {}
    found = await report(services, policy("fixed", rule, **{"max_tokens": 12, **options}), max_tokens=100, **fields)
    return found.lossy_tokens


@covers(*(f"speculation.accept.fly.{option}" for option in ("min_entropy", "window", "lossy_budget")))
async def fly_heeds_its_options(services: Trio) -> None:
    found = await let_through(services, "fly", window=1)
    assert found > await let_through(services, "fly", window=11)
    assert found > await let_through(services, "fly", window=1, min_entropy=1.05)
    assert found > 1 >= await let_through(services, "fly", window=1, lossy_budget=1.0)


@covers(*(f"speculation.accept.consultant.{option}" for option in ("max_surprisal", "weight", "lossy_budget")))
async def consultant_decoding_heeds_its_options(services: Trio) -> None:
    found = await let_through(services, "consultant")
    assert found > 1 >= await let_through(services, "consultant", lossy_budget=1.0)
    assert found > await let_through(services, "consultant", max_surprisal=0.2)
    slow = await let_through(services, "consultant", max_surprisal=0.7, weight=0.2)
    assert slow > await let_through(services, "consultant", max_surprisal=0.7, weight=1.0)


@covers(*(f"speculation.accept.typical.{option}" for option in ("epsilon", "delta", "lossy_budget")))
async def typical_acceptance_heeds_its_options(services: Trio) -> None:
    found = await let_through(services, "typical")
    strict = await let_through(services, "typical", epsilon=0.5, delta=2.0)
    assert found > 1 >= await let_through(services, "typical", lossy_budget=1.0)
    assert found > strict
    assert await let_through(services, "typical", epsilon=0.5, delta=0.1) > strict
    assert await let_through(services, "typical", epsilon=0.01, delta=2.0) > strict


@covers("speculation.accept.tolerance.tolerance", "speculation.accept.tolerance.lossy_budget")
async def a_tolerance_heeds_its_options(services: Trio) -> None:
    found = await let_through(services, "tolerance", tolerance=1.0)
    assert found > await let_through(services, "tolerance", tolerance=0.0) == 0
    assert await let_through(services, "tolerance", tolerance=1.0, lossy_budget=0.0) == 0


@covers("speculation.accept.jsd.threshold", "speculation.accept.jsd.lossy_budget")
async def a_distance_threshold_lets_through_up_to_its_budget(services: Trio) -> None:
    everything = await report(services, policy("fixed", "jsd", threshold=1.0))
    nothing = await report(services, policy("fixed", "jsd", threshold=0.0))
    bounded = await report(services, policy("fixed", "jsd", threshold=1.0, lossy_budget=0.5))
    assert everything.lossy and everything.lossy_tokens > bounded.lossy_tokens >= nothing.lossy_tokens == 0
    assert bounded.lossy_charge <= 0.5 < everything.lossy_charge


@covers(
    "speculation.accept.adasd.strict", "speculation.accept.adasd.lossy_budget", "speculation.accept.adasd.min_samples"
)
async def adasd_heeds_its_options(services: Trio) -> None:
    fields = {"sampling": SAMPLED, "max_tokens": 200}
    plain = await report(services, policy("fixed", "adasd", min_samples=1), **fields)
    never = await report(services, policy("fixed", "adasd", min_samples=10_000), **fields)
    bounded = await report(services, policy("fixed", "adasd", min_samples=1, lossy_budget=0.0), **fields)
    strict = await report(services, policy("fixed", "adasd", min_samples=1, strict=True), **fields)
    assert plain.lossy_tokens > 0 == never.lossy_tokens == bounded.lossy_tokens and bounded.lossy_charge == 0
    assert strict.accepted_tokens / strict.drafted_tokens < plain.accepted_tokens / plain.drafted_tokens


@covers("speculation.accept.adasd_kde.lossy_budget", "speculation.accept.adasd_kde.min_samples")
async def adasd_2_heeds_its_options(services: Trio) -> None:
    fields = {"sampling": SAMPLED, "max_tokens": 200}
    plain = await report(services, policy("fixed", "adasd-kde", min_samples=2), **fields)
    never = await report(services, policy("fixed", "adasd-kde", min_samples=10_000), **fields)
    bounded = await report(services, policy("fixed", "adasd-kde", min_samples=2, lossy_budget=0.0), **fields)
    assert plain.lossy_tokens > 0 == never.lossy_tokens == bounded.lossy_tokens


# Tokens and text.


@covers("tokenize.text", "detokenize.token_ids", "detokenize.skip_special_tokens")
async def tokens_and_text_are_made_of_each_other(services: Trio) -> None:
    tokenized = await services.stub.Tokenize(completion_pb2.TokenizeRequest(text="Hé<end>"))
    assert list(tokenized.token_ids) == [*ids("Hé"), END] and tokenized.context_length == 512
    for skip, expected in ((False, "Hé<end>"), (True, "Hé")):
        request = completion_pb2.DetokenizeRequest(token_ids=tokenized.token_ids, skip_special_tokens=skip)
        assert (await services.stub.Detokenize(request)).text == expected

