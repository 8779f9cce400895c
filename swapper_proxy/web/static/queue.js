// Who waits for which model, how long, until when, and why.

import { attribute, body, h, keyed, text } from "./dom.js";
import { clock, duration, epoch, plural } from "./format.js";
import { now } from "./store.js";

const MOST = 50;

function create() {
  return h("li", {},
    h("p", { class: "who" }, h("b"), h("span", { class: "priority" }), h("span", { class: "waited" })),
    h("p", { class: "why" }),
    h("p", { class: "start" }));
}

function update(row, request, received) {
  const [who, why, start] = row.children;
  const passed = now() - received;
  text(who.children[0], request.model);
  text(who.children[1], request.priority);
  attribute(who.children[1], "class", `priority ${request.priority}`);
  text(who.children[2], `waits ${duration(Math.floor(request.waited_seconds + passed))}`);
  text(why, request.reason);
  text(start, [expected(request.estimated_wait_seconds, passed), forced(request.may_force_at)].filter(Boolean).join(" · "));
}

function expected(wait, passed) {
  if (wait === null) return "no telling when it starts";
  return wait - passed > 0.5 ? `expected to start in ${duration(Math.ceil(wait - passed))}` : "expected to start at any moment";
}

function forced(moment) {
  if (moment === null) return "";
  return epoch(moment) > now() ? `may force a swap at ${clock(epoch(moment))}` : "may force a swap now";
}

function lanes({ models }) {
  const busy = models.filter((lane) => lane.waiting || lane.in_flight);
  return busy.map((lane) => `${lane.model}: ${lane.in_flight} of ${lane.parallel} at once${lane.waiting ? `, ${lane.waiting} waiting` : ""}`);
}

// Those whose model is not known, as Ollama is away, have no place in the list.
function said({ waiting, requests }, shown) {
  if (!waiting) return "Nobody waits.";
  const unknown = waiting - requests.length;
  const parts = [plural(waiting, "request waits", "requests wait")];
  if (unknown > 0) parts.push(`${unknown} until Ollama tells which model is meant`);
  if (shown) parts.push(shown < requests.length ? `the first ${shown} are shown, the likely next first` : "the likely next first");
  return parts.join("; ");
}

export function mount(store) {
  const list = h("ol", { class: "queue", tabindex: "0", "aria-labelledby": "queue-title" });
  const summary = h("p", { class: "note" });
  const busy = h("ul", { class: "lanes", tabindex: "0", "aria-label": "Models at work" });
  const warnings = h("ul", { class: "warnings" });
  body("queue").append(summary, list, warnings, busy);
  const draw = () => {
    const { requests, received, warnings: doubts } = store.queue;
    const first = requests.slice(0, MOST).map((request, index) => ({ ...request, index }));
    keyed(list, first, (request) => request.index, create, (row, request) => update(row, request, received));
    list.hidden = !requests.length;
    text(summary, said(store.queue, first.length));
    for (const [place, lines] of [[warnings, doubts], [busy, lanes(store.queue)]]) {
      keyed(place, lines, (line) => line, () => h("li"), (item, line) => text(item, line));
    }
  };
  store.on(["queue"], draw);
  setInterval(() => store.queue.requests.length && draw(), 1000);
}
