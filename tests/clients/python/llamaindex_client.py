"""LlamaIndex' ``OpenAILike`` and ``OpenAIEmbedding``: chats, streams, functions, structured output, embeddings."""

import asyncio

import openai

# docs: begin llamaindex
from llama_index.core.llms import ChatMessage

# docs: end
from llama_index.core.tools import FunctionTool

# docs: begin llamaindex
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai_like import OpenAILike
from openai import OpenAI

# docs: end
from pydantic import BaseModel
from told import key, limited_key, url, worked

# docs: begin llamaindex
llm = OpenAILike(
    api_base=f"{url}/v1",
    api_key=key,
    model="auto",
    is_chat_model=True,
    is_function_calling_model=True,
    context_window=128_000,
    max_retries=0,
    timeout=120,
)
reply = llm.chat([ChatMessage(role="user", content="What is 17 * 23?")])
print(reply.raw.id, reply.message.content)

rating = {"response_id": reply.raw.id, "score": 1.0}
OpenAI(base_url=f"{url}/v1", api_key=key).post("/feedback", body=rating, cast_to=object)

embeddings = OpenAIEmbedding(api_base=f"{url}/v1", api_key=key, model_name="vectors", max_retries=0)
# docs: end

question = [ChatMessage(role="user", content="What is 17 * 23?")]
assert "391" in reply.message.content
worked("chat", response_id=reply.raw.id)
worked("feedback", response_id=reply.raw.id)

assert "391" in "".join(part.delta or "" for part in llm.stream_chat(question))
assert "391" in llm.complete("What is 17 * 23?").text
worked("stream")


class Answer(BaseModel):
    """The answer."""

    answer: str


def weather(city: str) -> str:
    """What the weather is like."""
    return f"sunny in {city}"


called = llm.chat_with_tools([FunctionTool.from_defaults(weather)], user_msg="Oslo?", tool_required=True)
assert llm.get_tool_calls_from_response(called)[0].tool_kwargs == {"city": "text"}
worked("tools")

shaped = llm.as_structured_llm(Answer).chat(question)
assert shaped.raw.answer
worked("structured")

assert len(embeddings.get_text_embedding_batch(["a", "b"])[1]) == 256
worked("embeddings")

try:
    llm.chat(question, model="no-such-model")
except openai.NotFoundError as error:
    worked("error", code=error.code)
try:
    limited = OpenAILike(
        api_base=f"{url}/v1", api_key=limited_key, model="auto", is_chat_model=True, max_retries=0
    )
    while limited.chat(question):
        pass
except openai.RateLimitError as error:
    worked("limit", code=error.code)


async def concurrently() -> None:
    replies = await asyncio.gather(*(llm.achat(question) for _ in range(4)))
    assert all("391" in answer.message.content for answer in replies)


asyncio.run(concurrently())
worked("async")
