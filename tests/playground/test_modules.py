"""The page's modules against what they stand for: the contract's rules, links, markup in a model's text."""

from __future__ import annotations

import re

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor as Field

from orchestrator.policy import build_accept_rule, build_stop_rule
from tandem.v1 import policy_pb2
from tests.playground.browser import Browser, expect, visit
from tests.playground.serving import Served
from tests.playground.steps import link

pytestmark = pytest.mark.asyncio(loop_scope="module")


NAMED = "named"  # any rule by its name: the page offers those that it knows


def options(message: type) -> dict[str, set[str]]:
    """The fields of each rule of a policy's side."""
    rules = message.DESCRIPTOR.oneofs_by_name["rule"].fields
    return {rule.name: {field.name for field in rule.message_type.fields} for rule in rules if rule.name != NAMED}


async def test_every_rule_and_option_of_the_contract_can_be_chosen(served: Served, browser: Browser) -> None:
    async with visit(browser, served.url) as page:
        for table, message in (("STOP_RULES", policy_pb2.StopPolicy), ("ACCEPT_RULES", policy_pb2.AcceptPolicy)):
            shown = await page.evaluate(
                f"""async () => {{
                  const rules = (await import('/playground/policies.js')).{table};
                  return Object.entries(rules).map(([name, rule]) => [name, rule.options]);
                }}"""
            )
            assert {name: set(fields) for name, fields in shown} == options(message)
        kinds = await page.evaluate(
            """async () => {
              const { OPTIONS } = await import('/playground/policies.js');
              return Object.entries(OPTIONS).map(([name, { kind }]) => [name, kind]);
            }"""
        )
        labels = await page.evaluate(
            "async () => Object.entries((await import('/playground/record.js')).SOURCE_NAMES).length"
        )
    messages = [policy_pb2.StopPolicy, policy_pb2.AcceptPolicy]
    fields = [policy_pb2.StopPolicy.DESCRIPTOR.fields_by_name["max_tokens"]]
    rules = [rule for each in messages for rule in each.DESCRIPTOR.oneofs_by_name["rule"].fields if rule.name != NAMED]
    fields += [field for rule in rules for field in rule.message_type.fields]
    types = {Field.TYPE_INT32: "integer", Field.TYPE_DOUBLE: "number", Field.TYPE_BOOL: "flag"}
    assert dict(kinds) == {field.name: types[field.type] for field in fields}
    assert labels == 5


async def test_every_preset_is_a_policy_that_the_service_takes(served: Served, browser: Browser) -> None:
    async with visit(browser, served.url) as page:
        presets = await page.evaluate(
            """async () => {
              const { PRESETS, toMessage } = await import('/playground/policies.js');
              return PRESETS.map(({ name, policy }) => [name, toMessage(policy)]);
            }"""
        )
    assert len(presets) >= 7
    for _, message in presets:
        policy = json_format.ParseDict(message, policy_pb2.SpeculationPolicy())
        if not policy.off:
            build_stop_rule(policy.stop)
            build_accept_rule(policy.accept, greedy=False)


async def test_the_address_holds_everything_and_brings_it_back(served: Served, browser: Browser) -> None:
    async with visit(browser, served.url) as page:
        await page.fill("#prompt", "two words & <more>\nlines é")
        await page.fill("#temperature", "0.35")
        await page.fill("#seed", "18446744073709551615")
        await page.fill("#system", "Be brief.")
        lane = page.locator(".lane").nth(1)
        await lane.locator(".policy select").select_option("Own rules")
        await lane.get_by_label("Stop drafting").select_option("AdaEDL")
        await lane.get_by_label("Accept").select_option("AdaSD v1")
        await lane.get_by_label("γ").fill("0.3")
        await lane.get_by_label("Strict").check()
        await expect(page).to_have_url(re.compile("gamma%3D0.3.strict"))  # it is written once typing pauses
        address = page.url
        summary = await lane.locator("summary").text_content()
    async with visit(browser, address) as page:
        assert await page.input_value("#prompt") == "two words & <more>\nlines é"
        assert await page.input_value("#seed") == "18446744073709551615"
        assert await page.input_value("#system") == "Be brief."
        assert await page.locator(".lane").nth(1).locator("summary").text_content() == summary
        assert summary == "stop AdaEDL, accept AdaSD v1; gamma 0.3, strict"
        assert await page.locator(".lane").count() == 3


async def test_a_link_that_asks_for_what_there_is_not_says_so(served: Served, browser: Browser) -> None:
    for wrong in ("mystery exact", "adasd exact gamma=1", "adasd"):
        async with visit(browser, link(served.url, wrong)) as page:
            await expect(page.locator("#banner")).to_contain_text("The link could not be read in full")
    async with visit(browser, link(served.url, "off", temprature="1", mode="telepathy")) as page:
        said = 'there is no setting "temprature"; mode is one of chat, text'
        await expect(page.locator("#banner")).to_contain_text(said)


async def test_markup_in_a_text_stays_text_and_the_browser_forbids_all_else(served: Served, browser: Browser) -> None:
    tolerated = ("TrustedHTML", "Content Security Policy", "Trusted Type", "Refused", "violates")
    async with visit(browser, served.url, tolerated=tolerated) as page:
        markup = "<img src=x onerror=alert(1)><script>alert(1)</script>"
        shown = await page.evaluate(
            """async markup => {
              const { TokenText } = await import('/playground/tokens.js');
              const place = document.createElement('div');
              document.body.append(place);
              new TokenText(place, () => {}).append([{ text: markup, id: 1, source: 'bonus', round: 1 }]);
              return [place.textContent, place.querySelectorAll('img, script').length];
            }""",
            markup,
        )
        assert shown == [markup, 0]
        refused = await page.evaluate(
            """markup => {
              try { document.createElement('div').innerHTML = markup; } catch (error) { return error.name; }
              return 'allowed';
            }""",
            markup,
        )
        assert refused == "TypeError"
        elsewhere = "() => fetch('http://127.0.0.2:9/').then(() => 'sent', error => error.name)"
        assert await page.evaluate(elsewhere) == "TypeError"
