// The service's HTTP interface; addresses are relative, so that it may lie below any path.

import { headers } from "./key.js";
import { events } from "./sse.js";

const BASE = "tandem/v1";

/** What the service refused or could not do.
 *
 * code: Tandem's reason in lower case, `invalid_api_key`, or `unreachable` (no answer at all), `broken` (a stream that did not end).
 * param: path of the field at fault, or null. retryAfter: seconds, or null. */
export class ApiError extends Error {
  constructor(message, { code, param = null, retryAfter = null }) {
    super(message);
    this.code = code;
    this.param = param;
    this.retryAfter = retryAfter;
  }
}

/** CompleteResponse messages as JSON. Raises ApiError, and AbortError where `signal` was. */
export async function* complete(request, signal) {
  const response = await ask("complete", { body: request, signal });
  try {
    for await (const { event, data } of events(response.body)) {
      if (data === "[DONE]") return;
      const message = JSON.parse(data);
      if (event === "error") throw fromBody(message, response);
      yield message;
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") throw error;
    throw new ApiError(`The connection was lost (${error.message}).`, { code: "broken" });
  }
  throw new ApiError("The stream ended before the completion did.", { code: "broken" });
}

export const models = () => json("models");
export const load = () => json("load");
export const tokenize = (body, signal) => json("tokenize", { body, signal });
export const detokenize = (body) => json("detokenize", { body });

async function json(name, options = {}) {
  const response = await ask(name, options);
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(`The answer of ${name} cannot be read (${error.message}).`, { code: "broken" });
  }
}

async function ask(name, { body, signal } = {}) {
  const sent = body
    ? { method: "POST", headers: { ...headers(), "content-type": "application/json" }, body: JSON.stringify(body) }
    : { headers: headers() };
  let response;
  try {
    response = await fetch(`${BASE}/${name}`, { ...sent, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(`No answer from ${location.host}.`, { code: "unreachable" });
  }
  if (response.ok) return response;
  throw fromBody(await response.json().catch(() => null), response);
}

function fromBody(body, response) {
  const { message, code, param } = body?.error ?? {};
  const seconds = Number.parseFloat(response.headers.get("retry-after"));
  return new ApiError(message ?? `The service answered ${response.status}.`, {
    code: code ?? `http_${response.status}`,
    param: param ?? null,
    retryAfter: Number.isFinite(seconds) ? seconds : null,
  });
}
