"""Messages bodies as features and judges see them: as the same conversation of a chat would be seen."""

import orjson

from optimizer.context.prompt import Prompt, read_prompt
from optimizer.judging.sample import Sample, answer_of, question_of
from optimizer.routing import CHAT, MESSAGES

SCHEMA = {"type": "object", "properties": {"a": {}, "b": {}}}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}}
MESSAGES_BODY = {
    "system": [{"type": "text", "text": "Be kind."}],
    "tools": [{"name": "f", "input_schema": SCHEMA}],
    "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Why?"}, IMAGE]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "42"}]},
    ],
}
CHAT_BODY = {
    "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
    "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
    "messages": [
        {"role": "system", "content": "Be kind."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Why?"}, {"type": "image_url", "image_url": {}}],
        },
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "tool_call_id": "t", "content": "42"},
    ],
}


def test_features_are_those_of_the_same_chat():
    """Text, sizes, turns, pictures, tools and structure; what a tool gave is no turn of the user's."""
    seen, expected = read_prompt(MESSAGES_BODY, MESSAGES, 9), read_prompt(CHAT_BODY, CHAT, 9)

    for name in Prompt.__slots__:
        assert getattr(seen, name) == getattr(expected, name), name
    assert (seen.text, seen.turns, seen.images, seen.tool_parameters) == ("Why?", 2, 1, 2)


def test_a_judge_sees_question_and_answer():
    """The system prompt first; an answer that calls tools is no text to judge."""
    sample = Sample("r", "chat", "a", "m", "v", 1, 0.5, MESSAGES, MESSAGES_BODY, "Because.")
    said = {
        "type": "message",
        "content": [{"type": "thinking", "thinking": "t"}, {"type": "text", "text": "So."}],
    }
    called = {"content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]}

    assert question_of(sample) == "[system]\nBe kind.\n\n[user]\nWhy?"
    assert answer_of(MESSAGES, orjson.dumps(said)) == "So."
    assert answer_of(MESSAGES, orjson.dumps(called)) is None
