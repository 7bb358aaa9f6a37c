"""The ``anthropic`` SDK in front of OpenAI-compatible arms; tests/integration/messages has both kinds."""

# docs: begin anthropic
import anthropic

# docs: end
from told import key, limited_key, url, worked

# docs: begin anthropic
client = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, timeout=120)
question = [{"role": "user", "content": "What is 17 * 23?"}]

raw = client.messages.with_raw_response.create(model="auto", max_tokens=200, messages=question)
reply = raw.parse()
print(raw.headers["x-llm-optimizer-arm"], reply.content[0].text)

client.post("/v1/feedback", body={"response_id": reply.id, "score": 1.0}, cast_to=object)
# docs: end

assert "391" in reply.content[0].text
worked("chat", request_id=raw.headers["x-llm-optimizer-request-id"], arm=raw.headers["x-llm-optimizer-arm"])
worked("feedback", request_id=raw.headers["x-llm-optimizer-request-id"])

with client.messages.stream(model="auto", max_tokens=200, messages=question) as stream:
    assert "391" in stream.get_final_text()
worked("stream")

tools = [
    {
        "name": "weather",
        "description": "What the weather is like.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
]
called = client.messages.create(
    model="auto",
    max_tokens=200,
    messages=question,
    tools=tools,
    tool_choice={"type": "tool", "name": "weather"},
)
call = called.content[0]
assert (called.stop_reason, call.name, call.input) == ("tool_use", "weather", {"city": "text"})
result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
history = [*question, {"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
assert client.messages.create(model="auto", max_tokens=200, messages=history, tools=tools).content[0].text
worked("tools")

assert client.messages.count_tokens(model="auto", messages=question).input_tokens > 0
worked("count")

try:
    client.messages.create(model="no-such-model", max_tokens=200, messages=question)
except anthropic.NotFoundError as error:
    worked("error", code=error.body["error"]["type"])
try:
    client.with_options(api_key="no-such-key").messages.create(model="auto", max_tokens=9, messages=question)
except anthropic.AuthenticationError as error:
    worked("key", code=error.body["error"]["type"])
try:
    limited = client.with_options(api_key=limited_key)
    while limited.messages.create(model="auto", max_tokens=9, messages=question):
        pass
except anthropic.RateLimitError as error:
    worked("limit", code=error.body["error"]["type"])
client.close()
