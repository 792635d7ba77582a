"""Masks of grammars: what may follow is what the grammar says, wherever the text has been taken to before."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.constraints import FollowsGrammar, NoEndBefore
from tandem.grammars import GrammarError, Grammars
from tandem.sampling import History, SamplingChain, SamplingParams
from tandem.v1.grammar_pb2 import Grammar, GrammarChoices, JsonObject
from tests.support.tokens import END, byte_tokenizer, ids

SIZE = 257
TOKENIZER = byte_tokenizer(SIZE, ends=(END,))
GRAMMARS = Grammars(TOKENIZER)
OTHER_END = ids("\x01")[0]

# A regular language whose continuations are known without a parser.
PATTERN = "(ab|b){2,4}c?"


def words() -> list[str]:
    """All texts of PATTERN."""
    stems, found = [""], []
    for length in range(1, 5):
        stems = [stem + part for stem in stems for part in ("ab", "b")]
        if length >= 2:
            found += [stem + tail for stem in stems for tail in ("", "c")]
    assert all(re.fullmatch(PATTERN, word) for word in found)
    return found


def follows(text: str) -> set[int]:
    """Tokens that may follow `text`, by enumeration; the end among them where the text is whole."""
    may = {ids(word[len(text)])[0] for word in words() if word.startswith(text) and len(word) > len(text)}
    return may | ({END} if text in words() else set())


def allowed(mask: np.ndarray | None) -> set[int]:
    assert mask is not None
    return set(np.flatnonzero(mask).tolist())


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_mask_allows_what_enumeration_allows_in_any_order_of_visits(data: st.DataObject) -> None:
    matcher = GRAMMARS.matcher(Grammar(regex=PATTERN), [END])
    for _ in range(6):
        word = data.draw(st.sampled_from(words()))
        cut = data.draw(st.integers(0, len(word)))
        split = data.draw(st.integers(0, cut))
        masks = matcher.masks(ids(word[:split]), ids(word[split:cut]))
        assert [allowed(mask) for mask in masks] == [follows(word[:at]) for at in range(split, cut + 1)]


def test_nothing_is_said_behind_a_candidate_that_may_not_be_there_nor_behind_an_end() -> None:
    matcher = GRAMMARS.matcher(Grammar(regex=PATTERN), [END])
    masks = matcher.masks(ids("b"), ids("bxb"))
    assert [mask is None for mask in masks] == [False, False, True, True]
    assert matcher.masks([*ids("bb"), END], []) == [None]
    masks = matcher.masks(ids("b"), [*ids("b"), END, *ids("b")])
    assert [mask is None for mask in masks] == [False, False, True, True]
    assert allowed(matcher.masks(ids("b"), [])[0]) == follows("b")


def test_every_token_that_ends_a_text_may_end_it_and_nothing_else_but_where_it_is_whole() -> None:
    matcher = GRAMMARS.matcher(Grammar(regex=PATTERN), [END, OTHER_END])
    assert {END, OTHER_END} <= allowed(matcher.masks(ids("bb"), [])[0])
    assert not {END, OTHER_END} & allowed(matcher.masks(ids("b"), [])[0])
    assert allowed(matcher.masks(ids("bbbbc"), [])[0]) == {END, OTHER_END}


def test_a_text_that_does_not_follow_is_refused_and_the_matcher_lives_on() -> None:
    matcher = GRAMMARS.matcher(Grammar(regex=PATTERN), [END])
    for text in (ids("bx"), [END, *ids("b")]):
        with pytest.raises(GrammarError, match="does not follow"):
            matcher.masks(text, [])
    assert allowed(matcher.masks(ids("bb"), [])[0]) == follows("bb")


@pytest.mark.parametrize(
    ("grammar", "field"),
    [
        (Grammar(), "kind"),
        (Grammar(json_schema="{"), "json_schema"),
        (Grammar(json_schema="3"), "json_schema"),
        (Grammar(json_schema='{"type": "strin"}'), "json_schema"),
        (Grammar(json_schema='{"not": {"type": "string"}}'), "json_schema"),
        (Grammar(json_schema="[" * 100_000), "json_schema"),
        (Grammar(json_schema=" " * (256 * 1024)), "json_schema"),
        (Grammar(regex="(a"), "regex"),
        (Grammar(regex="(?=a)b"), "regex"),
        (Grammar(lark="start: foo"), "lark"),
        (Grammar(lark="nothing"), "lark"),
        (Grammar(choices=GrammarChoices()), "choices.texts"),
        (Grammar(choices=GrammarChoices(texts=["a", ""])), "choices.texts[1]"),
        (Grammar(choices=GrammarChoices(texts=["a"] * 1025)), "choices.texts"),
    ],
)
def test_a_grammar_that_cannot_be_followed_is_refused_by_its_field(grammar: Grammar, field: str) -> None:
    with pytest.raises(GrammarError) as caught:
        GRAMMARS.check(grammar)
    assert caught.value.field == field and "\n" not in str(caught.value)


def test_choices_are_taken_literally() -> None:
    texts = ['a"b\\', "start: x", "é\n", "a"]
    grammar = Grammar(choices=GrammarChoices(texts=texts))
    GRAMMARS.check(grammar)
    matcher = GRAMMARS.matcher(grammar, [END])
    for text in texts:
        assert END in allowed(matcher.masks(ids(text), [])[0])
    assert allowed(matcher.masks([], [])[0]) == {ids(text)[0] for text in texts}


def test_any_json_object_begins_with_a_brace() -> None:
    matcher = GRAMMARS.matcher(Grammar(json_object=JsonObject()), [END])
    assert allowed(matcher.masks([], [])[0]) == set(ids("{"))
    assert END in allowed(matcher.masks(ids('{"a": [1, null, "x"]}'), [])[0])


def test_white_space_in_json_cannot_go_on_for_ever() -> None:
    matcher = GRAMMARS.matcher(Grammar(json_object=JsonObject()), [END])
    text = "{" + " " * 24
    assert ids(" ")[0] in allowed(matcher.masks(ids(text[:-1]), [])[0])
    assert ids(" ")[0] not in allowed(matcher.masks(ids(text), [])[0])


def test_in_the_chain_forbidden_tokens_have_probability_0_and_the_rest_keep_their_proportions() -> None:
    logits = torch.randn(3, SIZE + 7, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    chain = SamplingChain(
        SamplingParams(temperature=0.7), SIZE, FollowsGrammar(GRAMMARS.matcher(Grammar(regex=PATTERN), [END]))
    )
    log_p = chain.log_probs(logits, History([1], ids("b")), ids("ba"))
    assert torch.equal(logits, before)
    for row, scores, text in zip(log_p, logits, ("b", "bb", "bba"), strict=True):
        may = sorted(follows(text))
        assert set(row.isfinite().nonzero().flatten().tolist()) == set(may)
        torch.testing.assert_close(row[may], torch.log_softmax(scores[may] / 0.7, -1))
    assert chain.forbids


def test_no_end_before_so_many_tokens() -> None:
    logits = torch.zeros(4, 10)
    chain = SamplingChain(SamplingParams(), 10, NoEndBefore(3, {2, 5}))
    log_p = chain.log_probs(logits, History([1], [7]), [7, 7, 7])
    assert log_p[:, [2, 5]].isfinite().all(-1).tolist() == [False, False, True, True]
    assert log_p[:, [0, 1, 3, 4, 6]].isfinite().all()
    assert chain.log_probs(logits[:1], History([1], [7, 7, 7])).isfinite().all()
