"""LangChain's ``ChatOpenAI`` and ``OpenAIEmbeddings``: calls, streams, bound tools, structured output, headers."""

import asyncio

import openai

# docs: begin langchain
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

# docs: end
from pydantic import BaseModel
from told import key, limited_key, url, worked

# docs: begin langchain
llm = ChatOpenAI(
    base_url=f"{url}/v1",
    api_key=key,
    model="auto",
    max_retries=0,
    timeout=120,
    include_response_headers=True,
)
reply = llm.invoke("What is 17 * 23?")
print(reply.response_metadata["headers"]["x-llm-optimizer-arm"], reply.content)

request_id = reply.response_metadata["headers"]["x-llm-optimizer-request-id"]
llm.root_client.post("/feedback", body={"request_id": request_id, "score": 1.0}, cast_to=object)

# Texts, not lists of token numbers, which mean something to OpenAI's own models only.
embeddings = OpenAIEmbeddings(
    base_url=f"{url}/v1", api_key=key, model="vectors", max_retries=0, check_embedding_ctx_length=False
)
# docs: end

assert "391" in reply.content
assert reply.usage_metadata["total_tokens"] > 0
worked("chat", request_id=request_id, arm=reply.response_metadata["headers"]["x-llm-optimizer-arm"])
worked("feedback", request_id=request_id)

plain = ChatOpenAI(base_url=f"{url}/v1", api_key=key, model="auto", max_retries=0)
answered = plain.invoke("What is 18 * 23?")
plain.root_client.post(
    "/feedback", body={"response_id": answered.response_metadata["id"], "score": 1.0}, cast_to=object
)
worked("response_id")

assert "391" in "".join(part.content for part in llm.stream("What is 17 * 23?"))
worked("stream")


class Answer(BaseModel):
    """The answer."""

    answer: str


class Weather(BaseModel):
    """What the weather is like."""

    city: str


called = llm.bind_tools([Weather], tool_choice="Weather").invoke("Weather in Oslo?")
assert called.tool_calls[0]["args"] == {"city": "text"}
streamed = None
for part in llm.bind_tools([Weather], tool_choice="Weather").stream("Weather in Oslo?"):
    streamed = part if streamed is None else streamed + part
assert streamed.tool_calls[0]["args"] == {"city": "text"}
worked("tools")

assert plain.with_structured_output(Answer).invoke("What is 17 * 23?").answer == "391"
worked("structured")

over_responses = ChatOpenAI(
    base_url=f"{url}/v1", api_key=key, model="auto", max_retries=0, use_responses_api=True
)
assert "391" in over_responses.invoke("What is 17 * 23?").text
worked("responses")

assert len(embeddings.embed_documents(["a", "b"])[1]) == 256
worked("embeddings")

try:
    llm.bind(model="no-such-model").invoke("What is 17 * 23?")
except openai.NotFoundError as error:
    worked("error", code=error.code)
try:
    limited = ChatOpenAI(base_url=f"{url}/v1", api_key=limited_key, model="auto", max_retries=0)
    while limited.invoke("What is 17 * 23?"):
        pass
except openai.RateLimitError as error:
    worked("limit", code=error.code)


async def concurrently() -> None:
    replies = await llm.abatch(["What is 17 * 23?"] * 4)
    assert all("391" in answer.content for answer in replies)
    assert "391" in "".join([part.content async for part in llm.astream("What is 17 * 23?")])


asyncio.run(concurrently())
worked("async")
