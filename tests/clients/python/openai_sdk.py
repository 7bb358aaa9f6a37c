"""The ``openai`` SDK, blocking and with asyncio: every endpoint that is optimized, and its own error classes."""

import asyncio

import openai

# docs: begin openai
from openai import OpenAI

# docs: end
from pydantic import BaseModel
from told import key, limited_key, url, worked

# docs: begin openai
client = OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=120)
question = [{"role": "user", "content": "What is 17 * 23?"}]

raw = client.chat.completions.with_raw_response.create(model="auto", messages=question)
reply = raw.parse()
print(raw.headers["x-llm-optimizer-arm"], reply.choices[0].message.content)

client.post("/feedback", body={"response_id": reply.id, "score": 1.0}, cast_to=object)
# docs: end

assert "391" in reply.choices[0].message.content
worked("chat", request_id=raw.headers["x-llm-optimizer-request-id"], arm=raw.headers["x-llm-optimizer-arm"])
worked("feedback", request_id=raw.headers["x-llm-optimizer-request-id"])

parts = list(client.chat.completions.create(model="auto", messages=question, stream=True))
assert "391" in "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
assert all(part.usage is None for part in parts)
with client.chat.completions.stream(model="auto", messages=question) as stream:
    assert "391" in stream.get_final_completion().choices[0].message.content
worked("stream")


class Answer(BaseModel):
    answer: str


class Weather(BaseModel):
    """What the weather is like."""

    city: str


tools = [openai.pydantic_function_tool(Weather)]
called = client.chat.completions.create(
    model="auto",
    messages=question,
    tools=tools,
    tool_choice={"type": "function", "function": {"name": "Weather"}},
)
call = called.choices[0].message.tool_calls[0]
assert Weather.model_validate_json(call.function.arguments).city
result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
history = [*question, called.choices[0].message, result]
assert client.chat.completions.create(model="auto", messages=history, tools=tools).choices[0].message.content
with client.chat.completions.stream(
    model="auto", messages=question, tools=tools, tool_choice="required"
) as stream:
    streamed = stream.get_final_completion().choices[0].message.tool_calls[0]
assert streamed.function.parsed_arguments.city
worked("tools")

parsed = client.chat.completions.parse(model="auto", messages=question, response_format=Answer)
assert parsed.choices[0].message.parsed.answer == "391"
worked("structured")

response = client.responses.create(model="auto", input="What is 17 * 23?")
assert "391" in response.output_text
with client.responses.stream(model="auto", input="What is 17 * 23?") as stream:
    assert "391" in stream.get_final_response().output_text
shaped = client.responses.parse(model="auto", input="What is 17 * 23?", text_format=Answer)
assert shaped.output_parsed.answer == "391"
worked("responses")

assert len(client.embeddings.create(model="vectors", input=["a", "b"]).data[1].embedding) == 256
worked("embeddings")

assert {"auto", "vectors"} <= {model.id for model in client.models.list()}
worked("models")

try:
    client.chat.completions.create(model="no-such-model", messages=question)
except openai.NotFoundError as error:
    worked("error", code=error.code)
try:
    client.with_options(api_key="no-such-key").chat.completions.create(model="auto", messages=question)
except openai.AuthenticationError as error:
    worked("key", code=error.code)

try:
    limited = client.with_options(api_key=limited_key)
    while limited.chat.completions.create(model="auto", messages=question):
        pass
except openai.RateLimitError as error:
    worked("limit", code=error.code)


async def concurrently() -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as aio:
        replies = await asyncio.gather(
            *(aio.chat.completions.create(model="auto", messages=question) for _ in range(8))
        )
        assert len({answer.id for answer in replies}) == 8
        stream = await aio.chat.completions.create(
            model="auto", messages=question, stream=True, stream_options={"include_usage": True}
        )
        last = [part async for part in stream][-1]
        assert last.usage.total_tokens > 0


asyncio.run(concurrently())
worked("async")
client.close()
