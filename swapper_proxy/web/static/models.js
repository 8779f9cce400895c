// Each model with its state, its figures and its buttons.

import { act } from "./api.js";
import { announce, attribute, body, h, keyed, text } from "./dom.js";
import { compact, duration, gigabytes, rate } from "./format.js";
import { now } from "./store.js";

const COLUMNS = ["Model", "State", "Size", "Priority", "Uptime", "Requests", "Tokens/s", "Actions"];
const NUMBERS = ["Size", "Uptime", "Requests", "Tokens/s"];
const MANY = 12; // more are shown by the choice of the reader
const DONE = { load: "is being loaded", unload: "is being unloaded", pin: "is being pinned", unpin: "is no longer pinned" };

async function clicked(store, button, name, action) {
  const model = store.models.get(name);
  const reason = model?.refusals[action];
  if (reason) {
    store.setMessage(name, { text: `Cannot ${action}: ${reason}`, bad: true });
    return;
  }
  attribute(button, "aria-busy", true);
  try {
    await act(name, action);
    store.setMessage(name, { text: "", bad: false });
    announce(`${name} ${DONE[action]}`);
  } catch (error) {
    store.setMessage(name, { text: `Cannot ${action}: ${error.message}`, bad: true });
    announce(`${name}: ${error.message}`);
  } finally {
    attribute(button, "aria-busy", false);
  }
}

function button(store, name, action) {
  const element = h("button", { type: "button", onclick: (event) => clicked(store, event.currentTarget, name, event.currentTarget.dataset.action) });
  setAction(element, name, action);
  return element;
}

function setAction(element, name, action) {
  const label = action[0].toUpperCase() + action.slice(1);
  attribute(element, "data-action", action);
  attribute(element, "aria-label", `${label} ${name}`);
  text(element, label);
}

function create(store, model) {
  const cells = COLUMNS.slice(1, -1).map((column) =>
    h("td", { role: "cell", "data-label": column, class: NUMBERS.includes(column) ? "number" : null }));
  cells[0].append(h("span", { class: "state" }), h("small"));
  return h("tr", { role: "row", "data-model": model.name },
    h("th", { scope: "row", role: "rowheader" }, h("span", { class: "name" }), h("small"), h("span", { class: "pin" }), h("p", { class: "message" })),
    cells,
    h("td", { role: "cell", class: "actions" }, ["load", "unload", "pin"].map((action) => button(store, model.name, action))));
}

function update(store, row, model) {
  const [head, state, size, priority, uptime, requests, tokens] = row.children;
  const message = store.messages.get(model.name);
  text(head.children[0], model.name);
  text(head.children[1], [model.type, model.ollama_name === model.name ? "" : model.ollama_name, model.configured ? "" : "not configured",
    model.known_as === model.name ? "" : `same weights as ${model.known_as}`].filter(Boolean).join(" · "));
  text(head.children[2], model.pinned ? "pinned" : model.remote ? "remote" : "");
  text(head.children[3], message?.text || model.reason || "");
  attribute(head.children[3], "class", message?.bad ? "message bad" : "message");
  text(state.firstChild, model.activity);
  attribute(state.firstChild, "class", `state ${model.activity}`);
  text(state.lastChild, model.work);
  text(size, gigabytes(model.size_gb));
  text(priority, model.priority);
  drawUptime(uptime, model);
  text(requests, compact(model.request_count ?? 0));
  text(tokens, rate(model.tokens_per_second));
  const buttons = row.querySelectorAll("button");
  setAction(buttons[2], model.name, model.pinned ? "unpin" : "pin");
  for (const element of buttons) {
    const reason = model.refusals[element.dataset.action];
    attribute(element, "aria-disabled", reason ? "true" : null);
    attribute(element, "title", reason || null);
  }
}

// Part of a name, or how a type or state begins: "loaded" is not "unloaded".
function matches(model, wanted) {
  const names = [model.name, model.ollama_name].join(" ").toLowerCase();
  const terms = [model.type, model.activity, model.status, model.waiting ? "waiting" : ""];
  const found = (word) => names.includes(word) || terms.some((term) => term.startsWith(word));
  return wanted.toLowerCase().split(/\s+/).every(found);
}

const drawUptime = (cell, model) => text(cell, model.since ? duration(Math.floor(now() - model.since)) : "–");

export function mount(store) {
  const rows = h("tbody", { role: "rowgroup" });
  const heads = COLUMNS.map((column) =>
    h("th", { scope: "col", role: "columnheader", class: NUMBERS.includes(column) ? "number" : null }, column));
  const table = h("table", { class: "models", role: "table", "aria-labelledby": "models-title" },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)), rows);
  const empty = h("p", { class: "note" });
  const filter = h("input", { id: "models-filter", type: "search", placeholder: "name, type or state", oninput: () => draw() });
  const controls = h("p", { class: "controls" }, h("label", { for: "models-filter" }, "Show "), filter);
  const list = h("div", {}, table);
  body("models").append(controls, list, empty);
  const draw = () => {
    const models = [...store.models.values()];
    controls.hidden = models.length <= MANY;
    attribute(list, "class", controls.hidden ? null : "list");
    const chosen = controls.hidden ? models : models.filter((model) => matches(model, filter.value));
    keyed(rows, chosen, (model) => model.name, (model) => create(store, model), (row, model) => update(store, row, model));
    if (!models.length) text(empty, store.status ? "No model is configured, and Ollama has none." : "");
    else text(empty, chosen.length ? "" : "No model is like that.");
  };
  store.on(["models"], draw);
  setInterval(() => {
    for (const row of rows.children) drawUptime(row.children[4], store.models.get(row.dataset.model) ?? {});
  }, 1000);
}
