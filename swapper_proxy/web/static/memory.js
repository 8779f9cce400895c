// What is resident, and how full the budget or the slots are.

import { attribute, body, h, keyed, text } from "./dom.js";
import { gigabytes, plural } from "./format.js";

// The rooms that models live in, as the configuration has them: [{name, count, budget, models}].  A budget holds in both
// modes and for all models together, slots for the models of their type.  `resident` is what is in memory.
export function rooms(config, resident) {
  const { mode, max_concurrent_models: most, memory_budget_gb: budget, slots } = config.swapper;
  const own = Object.entries(slots).map(([type, count]) => ({
    name: `Slots for ${type}`, count, budget: null, models: resident.filter((model) => model.type === type),
  }));
  const single = mode === "single-active";
  const all = { name: "All models", count: null, budget, models: resident };
  const shared = {
    name: own.length ? "All other models" : "Resident models",
    count: single ? 1 : most ?? (budget === null ? 1 : null),
    budget: own.length ? null : budget,
    models: resident.filter((model) => !(model.type in slots)),
  };
  return [...(own.length ? [all] : []), shared, ...own].filter((room) => room.count !== null || room.budget !== null);
}

const sum = (models) => models.reduce((total, model) => total + (model.size_gb ?? 0), 0);

function summary({ count, budget, models }) {
  const used = gigabytes(sum(models));
  const parts = [];
  if (count !== null) parts.push(`${models.length} of ${plural(count, "slot")} taken`);
  if (budget !== null) parts.push(`${used} of ${gigabytes(budget)}`);
  else if (models.length) parts.push(used);
  return parts.join(" · ");
}

// Shares of the bar: by size where there is a budget, else a slot each.
function cells(room) {
  const { count, budget, models } = room;
  const total = Math.max(budget ?? 0, sum(models));
  const taken = models.map((model) => ({
    key: model.model, name: model.names.join(" = "), state: model.status, size: model.size_gb,
    share: budget === null ? 1 : Math.max(model.size_gb ?? 0, total / 50),
  }));
  const spare = budget === null ? Math.max(0, Math.min(count, 24) - models.length) : 0;
  const free = Array.from({ length: spare }, (_, index) => ({ key: `free ${index}`, name: "free", state: "free", share: 1 }));
  const left = total - sum(models);
  if (budget !== null && left > 0) free.push({ key: "free", name: `${gigabytes(left)} free`, state: "free", share: left });
  return [...taken, ...free];
}

function create() {
  return h("div", { class: "room" }, h("p", { class: "room-head" }, h("b"), h("span")), h("ul", { class: "bar" }));
}

// `known` unless Ollama is away: then nobody knows what is in its memory.
function update(row, room, known) {
  attribute(row, "class", room.budget === null ? "room" : "room budget");
  text(row.querySelector("b"), room.name);
  text(row.querySelector("span"), known ? summary(room) : "not known");
  keyed(row.querySelector("ul"), known ? cells(room) : [], (cell) => cell.key, () => h("li", {}, h("span"), h("small")), draw);
}

function draw(element, cell) {
  attribute(element, "class", `cell ${cell.state}`);
  attribute(element, "title", cell.state === "free" ? null : `${cell.name}: ${cell.state}`);
  element.style.flexGrow = cell.share;
  text(element.firstChild, cell.name);
  text(element.lastChild, cell.state === "free" ? "" : [cell.state, cell.size ? gigabytes(cell.size) : ""].filter(Boolean).join(" · "));
}

export function mount(store) {
  const place = body("memory");
  place.classList.add("rooms");
  store.on(["status", "config"], () => {
    const known = store.status?.ollama === "reachable";
    if (store.config) keyed(place, rooms(store.config, store.status?.memory ?? []), (room) => room.name, create, (row, room) => update(row, room, known));
  });
}
