// openai for Node: chats, streams, tools, structured output, responses, embeddings, its own error classes.

import assert from "node:assert/strict";
// docs: begin openai-node
import OpenAI from "openai";
// docs: end
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { key, limitedKey, url, worked } from "./told.mjs";

// docs: begin openai-node

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0, timeout: 120_000 });
const messages = [{ role: "user", content: "What is 17 * 23?" }];

const { data: reply, response } = await client.chat.completions.create({ model: "auto", messages }).withResponse();
console.log(response.headers.get("x-llm-optimizer-arm"), reply.choices[0].message.content);

await client.post("/feedback", { body: { response_id: reply.id, score: 1.0 } });
// docs: end

const request_id = response.headers.get("x-llm-optimizer-request-id");
assert.match(reply.choices[0].message.content, /391/);
assert.equal(reply._request_id, request_id);
worked("chat", { request_id, arm: response.headers.get("x-llm-optimizer-arm") });
worked("feedback", { request_id });

let text = "";
for await (const part of await client.chat.completions.create({ model: "auto", messages, stream: true })) {
  assert.ok(part.choices.length);
  text += part.choices[0].delta.content ?? "";
}
assert.match(text, /391/);
const assembled = await client.chat.completions.stream({ model: "auto", messages }).finalContent();
assert.match(assembled, /391/);
worked("stream");

const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ type: "function", function: { name: "weather", parameters } }];
const called = await client.chat.completions.create({ model: "auto", messages, tools, tool_choice: "required" });
const call = called.choices[0].message.tool_calls[0];
assert.deepEqual(JSON.parse(call.function.arguments), { city: "text" });
const result = { role: "tool", tool_call_id: call.id, content: "sunny" };
const history = [...messages, called.choices[0].message, result];
assert.ok((await client.chat.completions.create({ model: "auto", messages: history, tools })).choices[0].message.content);
worked("tools");

const answer = zodResponseFormat(z.object({ answer: z.string() }), "answer");
const parsed = await client.chat.completions.parse({ model: "auto", messages, response_format: answer });
assert.equal(parsed.choices[0].message.parsed.answer, "391");
worked("structured");

const responded = await client.responses.create({ model: "auto", input: "What is 17 * 23?" });
assert.match(responded.output_text, /391/);
const kinds = [];
for await (const event of await client.responses.create({ model: "auto", input: "What is 17 * 23?", stream: true })) {
  kinds.push(event.type);
}
assert.equal(kinds.at(-1), "response.completed");
worked("responses");

const vectors = await client.embeddings.create({ model: "vectors", input: ["a", "b"] });
assert.equal(vectors.data[1].embedding.length, 256);
worked("embeddings");

await assert.rejects(client.chat.completions.create({ model: "no-such-model", messages }), (error) => {
  worked("error", { code: error.code });
  return error instanceof OpenAI.NotFoundError;
});
const stranger = new OpenAI({ baseURL: `${url}/v1`, apiKey: "no-such-key", maxRetries: 0 });
await assert.rejects(stranger.chat.completions.create({ model: "auto", messages }), (error) => {
  worked("key", { code: error.code });
  return error instanceof OpenAI.AuthenticationError;
});
const limited = new OpenAI({ baseURL: `${url}/v1`, apiKey: limitedKey, maxRetries: 0 });
const often = async () => {
  for (;;) await limited.chat.completions.create({ model: "auto", messages });
};
await assert.rejects(often(), (error) => {
  worked("limit", { code: error.code });
  return error instanceof OpenAI.RateLimitError;
});
