// What went wrong lately: problem events, and those of the history.

import { get } from "./api.js";
import { body, h, keyed, text } from "./dom.js";
import { clock, count, day, epoch } from "./format.js";
import { recorded } from "./history.js";
import { now } from "./store.js";

const DAY_S = 86_400;
const MOST = 100;

function create() {
  return h("li", {}, h("p", {}, h("time"), h("b"), h("code")), h("p", { class: "why" }));
}

function update(row, problem) {
  const [time, model, code] = row.firstChild.children;
  const moment = epoch(problem.time);
  text(time, now() - moment < DAY_S / 2 ? clock(moment) : `${day(moment)} ${clock(moment, false)}`);
  text(model, problem.model ?? "");
  const times = problem.count > 1 ? ` ×${count(problem.count)}` : "";
  text(code, `${problem.status ? `${problem.status} ` : ""}${problem.code ?? ""}${times}`);
  text(row.lastChild, problem.message ?? "");
}

// Whether those of the last day are known now.
async function recall(store) {
  if (!recorded(store)) return false;
  const answer = await get("history/problems", { since: String(Math.floor(now() - DAY_S)), limit: MOST }).catch(() => null);
  for (const problem of answer?.problems ?? []) store.addProblem(problem);
  return answer !== null;
}

export function mount(store, live) {
  const list = h("ol", { class: "problems", tabindex: "0", "aria-labelledby": "problems-title", "aria-live": "polite" });
  const empty = h("p", { class: "note" });
  body("problems").append(empty, list);
  let asked = false, known = false, told = false; // whether the history was asked, has answered, and was waited for
  store.on(["problems"], () => {
    keyed(list, store.problems, (one) => `${one.time} ${one.model} ${one.code} ${one.status} ${one.sent}`, create, update);
    list.hidden = !store.problems.length;
    text(empty, store.problems.length || !told ? "" : known ? "None in the last 24 hours." : "None since this page was opened.");
  });
  store.on(["config"], async () => {
    if (!store.config || asked) return;
    asked = true;
    known = await recall(store);
    told = true;
    store.changed("problems");
  });
  live.on("again", () => recall(store));
}
