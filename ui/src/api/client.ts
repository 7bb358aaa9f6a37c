// The page's only way to the product: `fetch` to the same origin, JSON, one error type.
import { ApiError, faultOf } from "./error.ts";
import type * as t from "./types.ts";

const TIMEOUT_MS = 20_000;

export type Query = Readonly<Record<string, string | number | null | undefined>>;

export interface Change {
  /** The ETag's revision: the change is refused when somebody else was faster. */
  revision?: number;
  body?: unknown;
  signal?: AbortSignal;
}

export class Client {
  constructor(
    private readonly key: () => string | null,
    private readonly ask: typeof fetch = (input, init) => fetch(input, init),
  ) {}

  /** Raises: ApiError; or the AbortError when `signal` ends it. */
  async get<T>(path: string, query: Query = {}, signal?: AbortSignal): Promise<T> {
    return (await this.send("GET", path + queryText(query), {}, undefined, signal)) as T;
  }

  async text(path: string, query: Query = {}, signal?: AbortSignal): Promise<string> {
    return (await this.send("GET", path + queryText(query), {}, undefined, signal, "text")) as string;
  }

  /** A change. Sent once; the idempotency key makes it safe when the network repeats it. */
  async change<T>(method: "POST" | "DELETE", path: string, change: Change = {}): Promise<T> {
    const headers: Record<string, string> = { "Content-Type": "application/json", "Idempotency-Key": randomId() };
    if (change.revision !== undefined) headers["If-Match"] = `"${change.revision}"`;
    return (await this.send(method, path, headers, JSON.stringify(change.body ?? {}), change.signal)) as T;
  }

  routes = (signal?: AbortSignal) => this.get<t.Routes>("/api/v1/routes", {}, signal);
  arms = (route?: string, signal?: AbortSignal) => this.get<t.Arms>("/api/v1/arms", { route }, signal);
  summary = (signal?: AbortSignal) => this.get<t.Summary>("/api/v1/metrics/summary", {}, signal);
  history = (query: { minutes?: number; points?: number; route?: string }, signal?: AbortSignal) =>
    this.get<t.History>("/api/v1/history", query, signal);
  savings = (signal?: AbortSignal) => this.get<t.Savings>("/api/v1/savings", {}, signal);
  densities = (route: string, signal?: AbortSignal) => this.get<t.Densities>("/api/v1/arms/densities", { route }, signal);
  requests = (query: { route?: string; arm?: string; outcome?: string; limit?: number; before?: string }, signal?: AbortSignal) =>
    this.get<t.Requests>("/api/v1/requests", query, signal);
  decision = (id: string, signal?: AbortSignal) => this.get<t.Decision>(`/api/v1/decisions/${encodeURIComponent(id)}`, {}, signal);
  optimizations = (query: { status?: string; route?: string; limit?: number; offset?: number } = {}, signal?: AbortSignal) =>
    this.get<t.Optimizations>("/api/v1/optimize", query, signal);
  optimization = (id: string, signal?: AbortSignal) => this.get<t.Optimization>(`/api/v1/optimize/${encodeURIComponent(id)}`, {}, signal);
  audit = (query: { actor?: string; action?: string; target?: string; limit?: number; before?: string } = {}, signal?: AbortSignal) =>
    this.get<t.Audit>("/api/v1/audit", query, signal);
  health = (signal?: AbortSignal) => this.get<t.Health>("/health/detailed", {}, signal);
  cluster = (signal?: AbortSignal) => this.get<t.Cluster>("/api/v1/cluster", {}, signal);
  configuration = (source: "effective" | "file", signal?: AbortSignal) => this.text("/api/v1/config/export", { source }, signal);
  validate = (config: string, signal?: AbortSignal) =>
    this.change<t.Validated>("POST", "/api/v1/config/validate", { body: { config }, ...(signal ? { signal } : {}) });
  reload = () => this.change<t.Reloaded>("POST", "/api/v1/config/reload");

  /** `revision` of the optimization as it was shown to the person who decided. */
  verb(id: string, verb: t.Verb, revision: number, body: { reason?: string; full?: boolean } = {}): Promise<t.Optimization> {
    const path = `/api/v1/optimize/${encodeURIComponent(id)}`;
    if (verb === "delete") {
      return this.change("DELETE", path + queryText({ reason: body.reason }), { revision });
    }
    return this.change("POST", `${path}/${verb}`, { revision, body });
  }

  private async send(
    method: string,
    path: string,
    headers: Record<string, string>,
    body: string | undefined,
    signal: AbortSignal | undefined,
    as: "json" | "text" = "json",
  ): Promise<unknown> {
    const key = this.key();
    if (key !== null) headers["Authorization"] = `Bearer ${key}`;
    const late = AbortSignal.timeout(TIMEOUT_MS);
    const init: RequestInit = { method, headers, signal: signal ? AbortSignal.any([signal, late]) : late, credentials: "omit", cache: "no-store" };
    if (body !== undefined) init.body = body;
    try {
      const answer = await this.ask(path, init);
      const text = await answer.text();
      if (!answer.ok) throw faultOf(answer.status, parsed(text));
      if (as === "text") return text;
      const document = parsed(text);
      if (document === undefined) throw new ApiError("strange", "The answer is not JSON.", answer.status);
      return document;
    } catch (error) {
      if (error instanceof ApiError || signal?.aborted) throw error;
      throw new ApiError("disconnected", late.aborted ? "There was no answer in time." : "The product can't be reached.");
    }
  }
}

export function queryText(query: Query): string {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return given.length ? `?${new URLSearchParams(given.map(([name, value]) => [name, String(value)]))}` : "";
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

// crypto.randomUUID exists only on https and localhost; operators also use plain http in their own network.
function randomId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
