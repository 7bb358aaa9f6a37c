// The one error of the page: everything that keeps an answer away.

export type Kind =
  /** Nothing answered, or only a worker that cannot reach the optimizer process. */
  | "disconnected"
  /** A key is needed, or the one given is wrong. */
  | "unauthorized"
  /** The product refused; `message` says why. */
  | "refused"
  /** Something answered that is not the admin surface. */
  | "strange";

export class ApiError extends Error {
  constructor(
    readonly kind: Kind,
    message: string,
    readonly status = 0,
    readonly code = "",
    readonly details: Readonly<Record<string, unknown>> = {},
  ) {
    super(message);
    this.name = "ApiError";
  }
}

/** Reads an answer that is no success. `body` is what JSON gave, or undefined. */
export function faultOf(status: number, body: unknown): ApiError {
  const error = isRecord(body) && isRecord(body["error"]) ? body["error"] : undefined;
  const code = typeof error?.["code"] === "string" ? error["code"] : "";
  const message = typeof error?.["message"] === "string" ? error["message"] : worker(body) ?? `The product answered ${status} without saying why.`;
  const details = isRecord(error?.["details"]) ? error["details"] : {};
  if (status === 401) return new ApiError("unauthorized", message, status, code, details);
  if (status === 502 || status === 503 || status === 504) return new ApiError("disconnected", message, status, code, details);
  return new ApiError(error ? "refused" : "strange", message, status, code, details);
}

// /health/detailed of a worker on its own has states instead of an error.
function worker(body: unknown): string | null {
  const parts = isRecord(body) ? body["components"] : null;
  return isRecord(parts) && parts["optimizer"] === "unreachable" ? "The optimizer process does not answer; requests are served on." : null;
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
