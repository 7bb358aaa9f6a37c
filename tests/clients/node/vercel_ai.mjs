// The AI SDK: generateText, streamText, tools, structured output, embeddings, over chat and over responses.

import assert from "node:assert/strict";
// docs: begin vercel
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText } from "ai";
// docs: end
import { createOpenAI } from "@ai-sdk/openai";
import { APICallError, Output, embedMany, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { key, limitedKey, url, worked } from "./told.mjs";

// docs: begin vercel

const proxy = createOpenAICompatible({
  name: "proxy",
  baseURL: `${url}/v1`,
  apiKey: key,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const { text, response } = await generateText({
  model: proxy("auto"),
  prompt: "What is 17 * 23?",
  maxRetries: 0,
  abortSignal: AbortSignal.timeout(120_000),
});
console.log(response.headers["x-llm-optimizer-arm"], text);

await fetch(`${url}/v1/feedback`, {
  method: "POST",
  headers: { "content-type": "application/json", authorization: `Bearer ${key}` },
  body: JSON.stringify({ response_id: response.id, score: 1.0 }),
});
// docs: end

const request_id = response.headers["x-llm-optimizer-request-id"];
assert.match(text, /391/);
worked("chat", { request_id, arm: response.headers["x-llm-optimizer-arm"] });
worked("feedback", { request_id });

// docs: begin vercel-openai
const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: key });
const overResponses = openai("auto"); // POST /v1/responses
const overChat = openai.chat("auto"); // POST /v1/chat/completions
// docs: end

const prompt = "What is 17 * 23?";
const models = { chat: proxy("auto"), openaiChat: overChat, responses: overResponses };
for (const [name, model] of Object.entries(models)) {
  const result = streamText({ model, prompt, maxRetries: 0, onError: ({ error }) => assert.fail(String(error)) });
  let streamed = "";
  for await (const part of result.textStream) {
    streamed += part;
  }
  assert.match(streamed, /391/, name);
  assert.ok((await result.usage).totalTokens > 0, name);
  const told = await result.response;
  assert.ok(told.headers["x-llm-optimizer-arm"] && told.id, name);
}
worked("stream");
worked("responses");

const weather = tool({
  description: "What the weather is like.",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `sunny in ${city}`,
});
for (const [name, model] of Object.entries(models)) {
  const asked = { model, prompt, maxRetries: 0, tools: { weather }, stopWhen: stepCountIs(2) };
  const forced = { toolName: "weather", type: "tool" };
  const first = (options) => ({ toolChoice: options.stepNumber === 0 ? forced : "none" });
  const result = await generateText({ ...asked, prepareStep: first });
  assert.deepEqual(result.steps[0].toolCalls[0].input, { city: "text" }, name);
  assert.equal(result.steps[0].toolResults[0].output, "sunny in text", name);
  assert.match(result.text, /391/, name);
  const streamed = streamText({ ...asked, prepareStep: first });
  await streamed.consumeStream();
  assert.deepEqual((await streamed.steps)[0].toolCalls[0].input, { city: "text" }, name);
}
worked("tools");

const output = Output.object({ schema: z.object({ answer: z.string() }) });
for (const [name, model] of Object.entries(models)) {
  const shaped = await generateText({ model, prompt, maxRetries: 0, output });
  assert.equal(shaped.output.answer, "391", name);
}
worked("structured");

const { embeddings } = await embedMany({
  model: proxy.textEmbeddingModel("vectors"),
  values: ["a", "b"],
  maxRetries: 0,
});
assert.equal(embeddings[1].length, 256);
worked("embeddings");

await assert.rejects(generateText({ model: proxy("no-such-model"), prompt, maxRetries: 0 }), (error) => {
  worked("error", { code: JSON.parse(error.responseBody).error.code });
  return APICallError.isInstance(error) && error.statusCode === 404;
});
const stranger = createOpenAICompatible({ name: "proxy", baseURL: `${url}/v1`, apiKey: "no-such-key" });
await assert.rejects(generateText({ model: stranger("auto"), prompt, maxRetries: 0 }), (error) => {
  worked("key", { code: JSON.parse(error.responseBody).error.code });
  return APICallError.isInstance(error) && error.statusCode === 401;
});
const limited = createOpenAICompatible({ name: "proxy", baseURL: `${url}/v1`, apiKey: limitedKey });
const often = async () => {
  for (;;) await generateText({ model: limited("auto"), prompt, maxRetries: 0 });
};
await assert.rejects(often(), (error) => {
  worked("limit", { code: JSON.parse(error.responseBody).error.code });
  return APICallError.isInstance(error) && error.statusCode === 429;
});
