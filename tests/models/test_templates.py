"""Chat templates that use what transformers offers them render as there."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from tandem.tokenization import TokenizationError, Tokenizer
from tests.models.checks import refused
from tests.support.tokens import byte_tokenizer

MESSAGES = [
    {"role": "system", "content": "Be brief. <b>&amp;</b>"},
    {"role": "user", "content": "  Hi\n\"there\" é😀  "},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
]

TEMPLATES = {
    "loops": (
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}:{{ m['content'] }}\n"
        "{% endfor %}"
    ),
    "what the assistant said": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content | trim }}{% endif %}{% endfor %}"
    ),
    "generation keeps its names": "{% set x = 1 %}{% generation %}{% set x = 2 %}{% endgeneration %}{{ x }}",
    "no tools": "{% if tools is not none %}TOOLS{% endif %}{% if documents is not none %}DOCS{% endif %}plain",
    "tools not named": "{% if not tools %}none{% endif %}{% if not xml_tools is defined %}undefined{% endif %}",
    "json": "{{ messages | tojson }}",
    "json indented": "{{ messages[1] | tojson(indent=2) }}",
    "json ascii": "{{ messages[1] | tojson(ensure_ascii=true) }}{{ messages[1] | tojson(true) }}",
    "json compact and sorted": "{{ messages[1] | tojson(separators=(',', ':'), sort_keys=true) }}",
    "prompt": "{{ messages[0].content }}{% if add_generation_prompt %}<assistant>{% endif %}",
    "special tokens": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ undefined_token }}",
    "blanks": "  {% if true %}  \n  x  \n  {%- endif +%}  \n{{ '' -}}  y",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
}  # fmt: skip


def rendered(template: str, messages: list[dict[str, str]] = MESSAGES) -> str:
    inner = byte_tokenizer()._tokenizer
    tokenizer = Tokenizer(inner, template=template, special={"bos_token": "<s>", "eos_token": "</s>"}, ends=())
    return bytes(number - 1 for number in tokenizer.apply_chat_template(messages)).decode()


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_renders_as_in_transformers(name: str) -> None:
    theirs, _ = render_jinja_template(
        conversations=[MESSAGES], chat_template=TEMPLATES[name], add_generation_prompt=True,
        bos_token="<s>", eos_token="</s>",
    )  # fmt: skip
    assert rendered(TEMPLATES[name]) == theirs[0]


def test_a_template_may_ask_for_the_date() -> None:
    before = datetime.date.today()
    found = datetime.date.fromisoformat(rendered("{{ strftime_now('%Y-%m-%d') }}"))
    assert before <= found <= datetime.date.today()


@pytest.mark.parametrize(
    "template, reason",
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[9].content }}", "no element 9"),
        ("{{ messages + 1 }}", "concatenate"),
        ("{{ messages[0].content.index('?!') }}", "substring not found"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% set _ = messages.append({}) %}", "unsafe"),
    ],
    ids=["by itself", "undefined", "type", "value", "escape", "change"],
)
def test_a_conversation_that_the_template_refuses_says_why(template: str, reason: str) -> None:
    with refused(TokenizationError, "the chat template refuses the conversation", reason):
        rendered(template)


def test_a_template_that_is_no_jinja_is_refused_with_its_folder(tmp_path: Path, embedded_folder: Path) -> None:
    (tmp_path / "tokenizer.json").symlink_to(embedded_folder / "tokenizer.json")
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}")
    with refused(TokenizationError, "the chat template of", str(tmp_path), "cannot be used"):
        Tokenizer.from_folder(tmp_path)


def test_a_model_without_a_template_says_what_to_send_instead() -> None:
    tokenizer = byte_tokenizer()
    assert not tokenizer.has_chat_template
    with refused(TokenizationError, "no chat template", "send text or tokens"):
        tokenizer.apply_chat_template(MESSAGES)
