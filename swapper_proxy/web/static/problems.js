// What went wrong lately: problem events, and failed loads of the history.

import { listed } from "./api.js";
import { body, h, keyed, text } from "./dom.js";
import { clock, day, epoch } from "./format.js";
import { recorded } from "./history.js";
import { now } from "./store.js";

const DAY_S = 86_400;

function create() {
  return h("li", {}, h("p", {}, h("time"), h("b"), h("code")), h("p", { class: "why" }));
}

function update(row, problem) {
  const [time, model, code] = row.firstChild.children;
  const moment = epoch(problem.time);
  text(time, now() - moment < DAY_S / 2 ? clock(moment) : `${day(moment)} ${clock(moment, false)}`);
  text(model, problem.model ?? "");
  text(code, problem.code ?? "");
  text(row.lastChild, problem.message ?? "");
}

async function recall(store) {
  if (!recorded(store)) return;
  const { found } = await listed("swaps", { since: String(Math.floor(now() - DAY_S)) }, 1000).catch(() => ({ found: [] }));
  for (const swap of found.filter((one) => one.failed).slice(0, 20)) {
    store.addProblem({ time: swap.time, model: swap.to_model, code: "load_failed", message: "the model could not be loaded" });
  }
}

export function mount(store, live) {
  const list = h("ol", { class: "problems", tabindex: "0", "aria-labelledby": "problems-title", "aria-live": "polite" });
  const empty = h("p", { class: "note" });
  body("problems").append(empty, list);
  let asked = false;
  store.on(["problems"], () => {
    keyed(list, store.problems, (one) => `${one.time} ${one.model} ${one.code}`, create, update);
    list.hidden = !store.problems.length;
    text(empty, store.problems.length ? "" : "None since this page was opened.");
  });
  store.on(["config"], () => {
    if (!store.config || asked) return;
    asked = true;
    recall(store);
  });
  live.on("again", () => recall(store));
}
