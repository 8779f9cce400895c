// Calls of the proxy. All addresses are relative to the page, so that a prefix in front of it does no harm.

import * as keys from "./keys.js";
import { setClock } from "./store.js";

export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

const PATIENCE_MS = 10_000;

async function refusal(answer) {
  const told = await answer.json().catch(() => null);
  const error = told?.error ?? {};
  const message = typeof error === "string" ? error : error.message;
  return new Refused(answer.status, error.code ?? "", message ?? `the proxy answered ${answer.status}`);
}

// Tried again with another key, as long as the reader has one to give.
async function called(path, { headers = {}, patience = 0, ...options } = {}) {
  const key = keys.headers(path);
  const signal = patience ? AbortSignal.timeout(patience) : options.signal;
  const answer = await fetch(`../${path}`, { cache: "no-store", ...options, signal, headers: { ...headers, ...key } }).catch((error) => {
    throw error instanceof TypeError ? new Error("the proxy does not answer") : error; // else it was stopped
  });
  setClock(Date.parse(answer.headers.get("Date")) / 1000);
  if (answer.ok) return answer;
  const refused = await refusal(answer);
  if (answer.status === 401 && (await keys.renewed(path, key))) return called(path, { headers, patience, ...options });
  throw refused;
}

export async function get(path, parameters = {}) {
  const query = new URLSearchParams(parameters).toString();
  const options = { headers: { Accept: "application/json" }, patience: PATIENCE_MS };
  return (await called(query ? `${path}?${query}` : path, options)).json();
}

// An answer that has no end; one of another kind is taken for a refusal.
export async function opened(path, headers, signal) {
  const answer = await called(path, { headers: { Accept: "text/event-stream", ...headers }, signal });
  if (answer.headers.get("Content-Type")?.startsWith("text/event-stream")) return answer;
  throw new Refused(answer.status, "", "there are no events");
}

// The text of a stream, cut where the separator stands, as it comes.
export async function* pieces(stream, separator) {
  const decoder = new TextDecoder();
  let rest = "";
  for (const reader = stream.getReader(); ; ) {
    const { done, value } = await reader.read();
    rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
    const whole = rest.split(separator);
    rest = done ? "" : whole.pop();
    yield* whole;
    if (done) return;
  }
}

// A name may hold slashes, quotes and anything else.
const inPath = (name) => name.split("/").map(encodeURIComponent).join("/");

export async function act(model, action) {
  return (await called(`models/${inPath(model)}/${action}?wait=false`, { method: "POST" })).json();
}

export async function generate(body, signal) {
  return called("api/generate", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
}

// All pages of a list of the history, newest first, as long as `most` allows; `complete` says whether it did.
export async function listed(kind, parameters, most = 5000) {
  const found = [];
  let before = null;
  do {
    const page = await get(`history/${kind}`, { ...parameters, limit: 1000, ...(before ? { before } : {}) });
    found.push(...page[kind]);
    before = page.next;
  } while (before !== null && found.length < most);
  return { found, complete: before === null };
}
