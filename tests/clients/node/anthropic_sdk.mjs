// @anthropic-ai/sdk for Node: messages, streams, tools, counting, its own error classes.

import assert from "node:assert/strict";
// docs: begin anthropic-node
import Anthropic from "@anthropic-ai/sdk";
// docs: end
import { key, limitedKey, url, worked } from "./told.mjs";

// docs: begin anthropic-node

const client = new Anthropic({ baseURL: url, apiKey: key, maxRetries: 0, timeout: 120_000 });
const asked = { model: "auto", max_tokens: 200, messages: [{ role: "user", content: "What is 17 * 23?" }] };

const { data: reply, response } = await client.messages.create(asked).withResponse();
console.log(response.headers.get("x-llm-optimizer-arm"), reply.content[0].text);

await client.post("/v1/feedback", { body: { response_id: reply.id, score: 1.0 } });
// docs: end

const request_id = response.headers.get("x-llm-optimizer-request-id");
assert.match(reply.content[0].text, /391/);
worked("chat", { request_id, arm: response.headers.get("x-llm-optimizer-arm") });
worked("feedback", { request_id });

assert.match(await client.messages.stream(asked).finalText(), /391/);
worked("stream");

const input_schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ name: "weather", description: "What the weather is like.", input_schema }];
const called = await client.messages.create({ ...asked, tools, tool_choice: { type: "any" } });
assert.equal(called.stop_reason, "tool_use");
assert.deepEqual(called.content[0].input, { city: "text" });
const streamed = await client.messages.stream({ ...asked, tools, tool_choice: { type: "any" } }).finalMessage();
assert.deepEqual(streamed.content[0].input, { city: "text" });
worked("tools");

const counted = await client.messages.countTokens({ model: "auto", messages: asked.messages });
assert.ok(counted.input_tokens > 0);
worked("count");

await assert.rejects(client.messages.create({ ...asked, model: "no-such-model" }), (error) => {
  worked("error", { code: error.error.error.type });
  return error instanceof Anthropic.NotFoundError;
});
const stranger = new Anthropic({ baseURL: url, apiKey: "no-such-key", maxRetries: 0 });
await assert.rejects(stranger.messages.create(asked), (error) => {
  worked("key", { code: error.error.error.type });
  return error instanceof Anthropic.AuthenticationError;
});
const limited = new Anthropic({ baseURL: url, apiKey: limitedKey, maxRetries: 0 });
const often = async () => {
  for (;;) await limited.messages.create(asked);
};
await assert.rejects(often(), (error) => {
  worked("limit", { code: error.error.error.type });
  return error instanceof Anthropic.RateLimitError;
});
