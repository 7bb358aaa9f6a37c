"""litellm as a library that calls the proxy: completions, streams, tools, structured output, embeddings, headers."""

import asyncio

# docs: begin litellm
import litellm
from openai import OpenAI

# docs: end
from pydantic import BaseModel
from told import key, limited_key, url, worked

# docs: begin litellm
proxy = {"api_base": f"{url}/v1", "api_key": key, "max_retries": 0, "timeout": 120}
question = [{"role": "user", "content": "What is 17 * 23?"}]

reply = litellm.completion(model="openai/auto", messages=question, **proxy)
headers = reply._hidden_params["additional_headers"]
print(headers["llm_provider-x-llm-optimizer-arm"], reply.choices[0].message.content)

rating = {"response_id": reply.id, "score": 1.0}
OpenAI(base_url=f"{url}/v1", api_key=key).post("/feedback", body=rating, cast_to=object)
# docs: end

request_id = headers["llm_provider-x-llm-optimizer-request-id"]
assert "391" in reply.choices[0].message.content
worked("chat", request_id=request_id, arm=headers["llm_provider-x-llm-optimizer-arm"])
worked("feedback", request_id=request_id)

parts = litellm.completion(model="openai/auto", messages=question, stream=True, **proxy)
assert "391" in "".join(part.choices[0].delta.content or "" for part in parts)
worked("stream")


class Answer(BaseModel):
    answer: str


tool = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "What the weather is like.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
called = litellm.completion(
    model="openai/auto", messages=question, tools=[tool], tool_choice="required", **proxy
)
assert called.choices[0].message.tool_calls[0].function.arguments == '{"city":"text"}'
worked("tools")

shaped = litellm.completion(model="openai/auto", messages=question, response_format=Answer, **proxy)
assert Answer.model_validate_json(shaped.choices[0].message.content).answer == "391"
worked("structured")

assert "391" in litellm.responses(model="openai/auto", input="What is 17 * 23?", **proxy).output_text
worked("responses")

vectors = litellm.embedding(model="openai/vectors", input=["a", "b"], **proxy)
assert len(vectors.data[1]["embedding"]) == 256
worked("embeddings")

try:
    litellm.completion(model="openai/no-such-model", messages=question, **proxy)
except litellm.NotFoundError as error:
    worked("error", code=error.status_code)
try:
    litellm.completion(model="openai/auto", messages=question, **{**proxy, "api_key": "no-such-key"})
except litellm.AuthenticationError as error:
    worked("key", code=error.status_code)
try:
    litellm.completion(model="openai/small", messages=question, **proxy)
except litellm.BadRequestError as error:
    worked("scope", words=str(error))
try:
    while litellm.completion(model="openai/auto", messages=question, **{**proxy, "api_key": limited_key}):
        pass
except litellm.RateLimitError as error:
    worked("limit", code=error.status_code)


async def concurrently() -> None:
    replies = await asyncio.gather(
        *(litellm.acompletion(model="openai/auto", messages=question, **proxy) for _ in range(4))
    )
    assert all("391" in answer.choices[0].message.content for answer in replies)


asyncio.run(concurrently())
worked("async")
