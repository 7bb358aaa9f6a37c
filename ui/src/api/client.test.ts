import { expect, test } from "vitest";
import { Client, queryText } from "./client.ts";
import { ApiError } from "./error.ts";

function answering(status: number, body: string, seen: [string, RequestInit][] = []) {
  const ask = (path: unknown, init?: RequestInit) => {
    seen.push([String(path), init ?? {}]);
    return Promise.resolve(new Response(body, { status }));
  };
  return new Client(() => "the key", ask as typeof fetch);
}

async function failure(asked: Promise<unknown>): Promise<ApiError> {
  const error = await asked.then(() => null, (reason: unknown) => reason);
  if (!(error instanceof ApiError)) throw new Error(`no ApiError but ${String(error)}`);
  return error;
}

test("what was refused says why", async () => {
  const body = JSON.stringify({ error: { code: "CONFLICT", message: "Already there.", details: { a: 1 } } });
  const error = await failure(answering(409, body).routes());
  expect([error.kind, error.status, error.code, error.message, error.details]).toEqual(["refused", 409, "CONFLICT", "Already there.", { a: 1 }]);
});

test.each([
  [401, "{}", "unauthorized"],
  [503, "{}", "disconnected"],
  [503, '{"components":{"optimizer":"unreachable"}}', "disconnected"],
  [500, "<html>", "strange"],
  [200, "<html>", "strange"],
])("status %s with %s is %s", async (status, body, kind) => expect((await failure(answering(status, body).routes())).kind).toBe(kind));

test("nobody there", async () => {
  const client = new Client(() => null, () => Promise.reject(new TypeError("failed")));
  expect((await failure(client.routes())).kind).toBe("disconnected");
});

test("an aborted question is no failure of the product", async () => {
  const stop = new AbortController();
  const client = new Client(() => null, (_path, init) => new Promise((_done, fail) => init?.signal?.addEventListener("abort", () => fail(init.signal?.reason))));
  const asked = client.routes(stop.signal).catch((error: unknown) => error);
  stop.abort();
  expect(await asked).not.toBeInstanceOf(ApiError);
});

test("a verb carries key, revision and an idempotency key", async () => {
  const seen: [string, RequestInit][] = [];
  const client = answering(200, "{}", seen);
  await client.verb("a/b", "pause", 7, { reason: "to look" });
  await client.verb("a/b", "delete", 8, { reason: "done" });
  expect(seen.map(([path, init]) => `${init.method} ${path}`)).toEqual(["POST /api/v1/optimize/a%2Fb/pause", "DELETE /api/v1/optimize/a%2Fb?reason=done"]);
  const headers = seen.map(([, init]) => init.headers as Record<string, string>);
  expect(headers[0]).toMatchObject({ Authorization: "Bearer the key", "If-Match": '"7"', "Content-Type": "application/json" });
  expect(headers[0]?.["Idempotency-Key"]).toMatch(/^[0-9a-f]{32}$/);
  expect(headers[0]?.["Idempotency-Key"]).not.toBe(headers[1]?.["Idempotency-Key"]);
  expect(seen[0]?.[1].body).toBe('{"reason":"to look"}');
});

test("only what is given is asked", () => expect(queryText({ a: 1, b: null, c: undefined, d: "", e: "x y" })).toBe("?a=1&e=x+y"));
