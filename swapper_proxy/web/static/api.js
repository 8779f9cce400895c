// Calls of the proxy. All addresses are relative to the page, so that a prefix in front of it does no harm.

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

async function called(path, options) {
  const answer = await fetch(`../${path}`, { cache: "no-store", ...options });
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

export async function get(path, parameters = {}) {
  const query = new URLSearchParams(parameters).toString();
  const options = { headers: { Accept: "application/json" }, signal: AbortSignal.timeout(PATIENCE_MS) };
  return (await called(query ? `${path}?${query}` : path, options)).json();
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
