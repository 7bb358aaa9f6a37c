"""Signals that need no judge."""

import orjson
import pytest

from proxy.envelope import parse
from proxy.providers.signals import is_refusal, json_validity


@pytest.mark.parametrize(
    "head",
    [
        "I'm sorry, but I can't assist with that request.",
        "I’m sorry, but I can’t help with that.",  # noqa: RUF001
        "I am very sorry, but I cannot do this.",
        "Sorry, I can't do that.",
        "I cannot provide instructions for that.",
        "I can't help with that.",
        "I am unable to assist with this.",
        "I'm unable to create that.",
        "I won't help with this.",
        "I must decline with regret",
        "As an AI language model, I cannot have opinions.",
        "Unfortunately, I am unable to open links.",
        "Es tut mir leid, aber dabei kann ich nicht helfen.",
        "Je suis désolé, mais je ne peux pas vous aider.",
        "Lo siento, pero no puedo ayudar con eso.",
        "Mi dispiace, ma non posso aiutarti.",
        "Desculpe, mas não posso ajudar.",
        "抱歉，我无法协助。",  # noqa: RUF001
        "申し訳ありませんが、お手伝いできません。",
    ],
)
def test_refusals_are_recognised(head):
    """In the languages that the guard knows."""
    assert is_refusal(head)


@pytest.mark.parametrize(
    "head",
    [
        "",
        "Paris is the capital of France.",
        "I'm sorry to hear about your loss. Here is what you can do.",
        "Sorry for the delay! Here is the code.",
        "I can help with that.",
        "The error 'I cannot connect' means that the port is closed.",
        "You asked why the model said: I'm sorry, I can't do that.",
        "I cannot recommend this book enough.",
    ],
)
def test_answers_are_not(head):
    """Politeness and quotations are no refusals."""
    assert not is_refusal(head)


def asked(**response_format):
    return parse(
        "chat",
        orjson.dumps(
            {
                "model": "m",
                "messages": [{"role": "user", "content": "x"}],
                "response_format": response_format,
            }
        ),
    )


@pytest.mark.parametrize(
    ("schema", "text", "valid"),
    [
        ({"type": "object", "required": ["a"]}, '{"a": 1}', True),
        ({"type": "object", "required": ["a"]}, "{}", False),
        ({"type": "object"}, "[]", False),
        ({"type": ["object", "null"]}, "null", True),
        ({"type": "object", "properties": {"a": {"type": "number"}}}, '{"a": true}', False),
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, '{"a": 1.0}', True),
        ({"type": "object", "properties": {"a": {"type": ["string", "null"]}}}, '{"a": null}', True),
        ({"type": "object", "properties": {"a": {"$ref": "#/x"}}}, '{"a": 1}', True),
        ({"anyOf": []}, "3", True),
        ({"type": "array"}, "[1]", True),
    ],
)
def test_the_top_level_of_a_schema_is_checked(schema, text, valid):
    """Type, required members and their types; what is deeper is not judged."""
    wanted = asked(type="json_schema", json_schema={"name": "n", "schema": schema})

    assert json_validity(wanted, text) is valid


def test_json_object_wants_an_object():
    """Valid JSON of another kind is not what was asked for."""
    assert json_validity(asked(type="json_object"), '{"a":1}')
    assert not json_validity(asked(type="json_object"), "[1]")
    assert not json_validity(asked(type="json_object"), "```json\n{}\n```")
    assert json_validity(asked(type="json_schema"), "{}")
