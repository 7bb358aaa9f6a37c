"""The OpenAI codec: what is sent, what whole replies tell, how errors look."""

import orjson
import pytest

from optimizer.routing import Arm, Model, Upstream, Variant
from proxy.envelope import parse
from proxy.providers.openai import PARSE_BYTES, OpenAICodec

CODEC = OpenAICodec()


def test_only_the_model_changes(ask, arm, model, identity, upstream):
    """Everything else is byte-identical."""
    envelope = ask(temperature=0.5, unknown=[1, {"x": None}])

    prepared = CODEC.prepare(envelope, arm, model, identity, upstream)

    assert prepared.path == "/v1/chat/completions"
    assert prepared.body == envelope.raw.replace(b'"gpt-4"', b'"the-model"')
    assert not prepared.usage_injected


def test_the_same_model_is_not_rewritten(arm, model, identity, upstream, ask):
    """No copy when nothing changes."""
    envelope = parse(
        "chat", orjson.dumps({"model": "the-model", "messages": [{"role": "user", "content": "x"}]})
    )

    assert CODEC.prepare(envelope, arm, model, identity, upstream).body is envelope.raw


def test_usage_is_asked_for_streams(ask, arm, model, identity, upstream):
    """Only when streaming, only when the client did not, only when the model can; other options stay."""

    def sent(endpoint="chat", chosen=model, **fields):
        prepared = CODEC.prepare(ask(endpoint, **fields), arm, chosen, identity, upstream)
        return orjson.loads(prepared.body).get("stream_options"), prepared.usage_injected

    mute = Model("m", "up", "the-model", "key")
    assert sent(stream=True) == ({"include_usage": True}, True)
    assert sent("completions", stream=True) == ({"include_usage": True}, True)
    assert sent(stream=True, stream_options={"include_obfuscation": False}) == (
        {"include_obfuscation": False, "include_usage": True},
        True,
    )
    assert sent(stream=True, stream_options={"include_usage": False}) == ({"include_usage": True}, True)
    assert sent(stream=True, stream_options=None) == ({"include_usage": True}, True)
    assert sent(stream=True, stream_options={"include_usage": True}) == ({"include_usage": True}, False)
    assert sent() == (None, False)
    assert sent(stream=True, chosen=mute) == (None, False)
    assert sent("responses", stream=True) == (None, False)
    assert sent("embeddings", stream=True) == (None, False)


@pytest.mark.parametrize("variant", [Variant("d", "k"), Variant("v", "k", system="S")])
def test_parameters_of_the_arm_are_set_or_removed(ask, model, upstream, variant):
    """An explicit null removes the field; the same with and without a prompt change."""
    chosen = Arm("a", "m", "v", "mk", "vk", parameters={"temperature": 0.1, "seed": 4, "user": None})

    body = CODEC.prepare(ask(temperature=1, user="u", n=1), chosen, model, variant, upstream).body

    sent = orjson.loads(body)
    assert (sent["temperature"], sent["seed"], sent["n"], sent["model"]) == (0.1, 4, 1, "the-model")
    assert "user" not in sent


def test_a_variant_changes_the_prompt(ask, arm, model, upstream):
    """And unknown fields still survive."""
    body = CODEC.prepare(ask(unknown=1), arm, model, Variant("v", "k", system="S"), upstream).body

    sent = orjson.loads(body)
    assert sent["messages"][0] == {"role": "system", "content": "S"}
    assert (sent["model"], sent["unknown"]) == ("the-model", 1)


@pytest.mark.parametrize(
    ("base_url", "paths", "target"),
    [
        ("https://api.openai.com/v1", {}, "/v1/chat/completions"),
        ("https://api.openai.com/v1/", {}, "/v1/chat/completions"),
        ("http://localhost:8000", {}, "/v1/chat/completions"),
        ("https://api.groq.com/openai/v1", {}, "/openai/v1/chat/completions"),
        ("https://g.example/v1beta/openai/", {}, "/v1beta/openai/chat/completions"),
        ("https://x.azure.com/openai/v1?api-version=p", {}, "/openai/v1/chat/completions?api-version=p"),
        (
            "https://x.azure.com",
            {"chat": "/openai/deployments/{model}/chat/completions?api-version=2024-10-21"},
            "/openai/deployments/the-model/chat/completions?api-version=2024-10-21",
        ),
        ("https://x.azure.com/v1", {"embeddings": "/other"}, "/v1/chat/completions"),
    ],
)
def test_the_target_follows_base_url_and_paths(ask, arm, model, identity, base_url, paths, target):
    """Providers differ in settings, not in code."""
    upstream = Upstream("up", "openai", base_url, paths=paths)

    assert CODEC.prepare(ask(), arm, model, identity, upstream).path == target


def test_auth_goes_into_the_named_header():
    """Bearer only in Authorization."""
    plain = Upstream("up", "openai", "https://x")
    azure = Upstream("up", "openai", "https://x", key_header="API-Key")

    assert CODEC.auth_header(plain, "sk-1") == (b"authorization", b"Bearer sk-1")
    assert CODEC.auth_header(azure, "sk-1") == (b"api-key", b"sk-1")


def completion(message=None, reason="stop", **more):
    message = message or {"role": "assistant", "content": "Hello"}
    return {
        "id": "chatcmpl-1",
        "model": "m-1",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 8},
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
        **more,
    }


def test_whole_replies_pass_untouched(ask):
    """The client's bytes are the upstream's."""
    body = orjson.dumps(completion())

    out, facts = CODEC.unary(ask(), body)

    assert out is body
    assert (facts.input_tokens, facts.output_tokens, facts.usage_source) == (10, 5, "reported")
    assert (facts.cache_read_tokens, facts.reasoning_tokens) == (8, 2)
    assert (facts.response_id, facts.response_model) == ("chatcmpl-1", "m-1")
    assert (facts.finish_reasons, facts.text_head, facts.has_content) == (["stop"], "Hello", True)
    assert facts.json_valid is None


def test_tool_calls_refusals_and_emptiness(ask):
    """Three answers without plain text are three different facts."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    tools = CODEC.unary(
        ask(), orjson.dumps(completion({"content": None, "tool_calls": [call]}, "tool_calls"))
    )[1]
    refused = CODEC.unary(ask(), orjson.dumps(completion({"content": None, "refusal": "No."})))[1]
    empty = CODEC.unary(ask(), orjson.dumps(completion({"content": ""})))[1]

    assert (tools.tool_calls, tools.has_content) == (True, False)
    assert (refused.has_content, refused.text_head) == (True, "No.")
    assert (empty.tool_calls, empty.has_content) == (False, False)


def test_missing_usage_is_estimated_and_says_so(ask):
    """Never reported as if the provider had said it."""
    reply = completion()
    del reply["usage"]
    envelope = ask()

    facts = CODEC.unary(envelope, orjson.dumps(reply))[1]

    assert facts.usage_source == "estimated"
    assert (facts.input_tokens, facts.output_tokens) == (envelope.input_tokens_estimate, 2)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"", b'{"error":{"message":"m","type":"t"}}'])
def test_a_200_that_is_no_answer_is_an_error(ask, body):
    """Gateways send pages and errors with status 200."""
    facts = CODEC.unary(ask(), body)[1]

    assert facts.error_type is not None
    assert facts.usage_source == "none"


def test_large_replies_are_read_at_their_ends(ask):
    """Embeddings and huge answers are not parsed for a few numbers."""
    vector = {"object": "embedding", "index": 0, "embedding": [0.125] * 2000}
    embeddings = orjson.dumps(
        {"data": [vector], "model": "e", "usage": {"prompt_tokens": 5, "total_tokens": 5}}
    )
    huge = orjson.dumps(completion({"content": 'x"usage":{"prompt_tokens":1}' * 20_000}))
    silent = orjson.dumps({"choices": [], "data": ["x" * PARSE_BYTES]})

    vectors = CODEC.unary(ask("embeddings"), embeddings)[1]
    answer = CODEC.unary(ask(), huge)[1]
    unknown = CODEC.unary(ask(), silent)[1]

    assert len(huge) > PARSE_BYTES
    assert (vectors.input_tokens, vectors.output_tokens, vectors.response_model) == (5, 0, "e")
    assert vectors.has_content
    assert (answer.input_tokens, answer.output_tokens, answer.cache_read_tokens) == (10, 5, 8)
    assert answer.finish_reasons == ["stop"]
    assert unknown.usage_source == "estimated"


def test_json_answers_are_checked(ask):
    """Against the form that was asked for."""
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
    wanted = ask(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}})

    def check(text):
        return CODEC.unary(wanted, orjson.dumps(completion({"content": text})))[1].json_valid

    assert check('{"a":1}') is True
    assert check('{"b":1}') is False
    assert check('{"a":"1"}') is False
    assert check("Here it is") is False


def test_responses_replies(ask):
    """Output items instead of choices."""
    doc = {
        "id": "resp_1",
        "model": "m-1",
        "status": "completed",
        "error": None,
        "output": [
            {"type": "reasoning", "summary": []},
            {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]},
            {"type": "function_call", "name": "f", "arguments": "{}"},
        ],
        "usage": {"input_tokens": 3, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 1}},
    }

    facts = CODEC.unary(ask("responses"), orjson.dumps(doc))[1]
    failed = CODEC.unary(ask("responses"), orjson.dumps({**doc, "status": "failed", "error": {"code": "c"}}))[
        1
    ]

    assert (facts.text_head, facts.tool_calls, facts.finish_reasons) == ("Hi", True, ["completed"])
    assert (facts.input_tokens, facts.output_tokens, facts.cache_read_tokens) == (3, 4, 1)
    assert (failed.error_type, failed.error_code) == ("upstream_error", "c")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        # xAI: reasoning stands beside the completion and is billed.
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 35,
          "completion_tokens_details": {"reasoning_tokens": 20}}, (10, 25, None)),
        # Gemini's compatible endpoint shows thinking in the total only.
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 35}, (10, 25, None)),
        # A difference that the breakdown does not explain is not ours to bill.
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 35,
          "prompt_tokens_details": {"cached_tokens": 3}}, (10, 5, 3)),
        # OpenAI: reasoning is inside.
        ({"prompt_tokens": 10, "completion_tokens": 25, "total_tokens": 35,
          "completion_tokens_details": {"reasoning_tokens": 20}}, (10, 25, None)),
        # DeepSeek's own names.
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "prompt_cache_hit_tokens": 8,
          "prompt_cache_miss_tokens": 2}, (10, 5, 8)),
        ({"prompt_tokens": 10, "total_tokens": 10}, (10, 0, None)),
        ({"prompt_tokens": None, "completion_tokens": None}, None),
    ],
)  # fmt: skip
def test_dialects_of_usage(ask, usage, expected):
    """Every provider's counts come out as all input, all output, and what was cached."""
    facts = CODEC.unary(ask(), orjson.dumps(completion(usage=usage)))[1]

    if expected is None:
        assert facts.usage_source == "estimated"
    else:
        assert (facts.input_tokens, facts.output_tokens, facts.cache_read_tokens) == expected


def test_error_bodies_of_openai_shape_pass():
    """Their bytes are untouched; type and code are read."""
    body = b'{"error": {"message": "slow down", "type": "requests", "param": null, "code": "rate_limit_exceeded"}}'

    assert CODEC.error(429, body) == (body, "requests", "rate_limit_exceeded")


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (502, b"<html>Bad gateway</html>", "The upstream answered with status 502."),
        (400, b'{"error":"model not loaded"}', "model not loaded"),
        (422, b'{"detail":"wrong field"}', "wrong field"),
        (400, b'{"object":"error","message":"too long","type":"BadRequestError","code":400}', "too long"),
        (400, b'[{"error":{"code":400,"message":"bad","status":"INVALID_ARGUMENT"}}]', "bad"),
        (422, b'{"detail":[{"loc":["body"]}]}', '[{"loc":["body"]}]'),
        (500, b"", "The upstream answered with status 500."),
    ],
)
def test_other_error_bodies_are_put_into_shape(status, body, message):
    """vLLM, Ollama, FastAPI, Gemini, proxies: one shape for the client."""
    shaped, kind, _ = CODEC.error(status, body)

    error = orjson.loads(shaped)["error"]
    assert error["message"] == message
    assert error["type"] == kind
    assert set(error) == {"message", "type", "param", "code"}


def test_refused_credentials_are_not_quoted():
    """OpenAI repeats parts of the key; it is not the caller's."""
    body = orjson.dumps(
        {
            "error": {
                "message": "Incorrect API key provided: sk-ab**12",
                "type": "x",
                "code": "invalid_api_key",
            }
        }
    )

    shaped, _, code = CODEC.error(401, body)

    assert b"sk-ab" not in shaped
    assert code == "invalid_api_key"
