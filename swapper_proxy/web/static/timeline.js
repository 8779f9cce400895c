// The swap timeline: one lane per model.

import { listed } from "./api.js";
import { attribute, body, h, keyed, s, text } from "./dom.js";
import { clock, day, duration, epoch, plural } from "./format.js";
import { isOff, recorded } from "./history.js";
import { Lanes } from "./lanes.js";
import { now } from "./store.js";
import { LEGEND as TROUBLES, Troubles, mark } from "./troubles.js";

const HEIGHT = 26;
const TICK_PX = 84;
const STEPS = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 14_400, 21_600];
const WINDOWS = [[600, "10 minutes"], [1800, "30 minutes"], [3600, "1 hour"], [10_800, "3 hours"], [21_600, "6 hours"], [43_200, "12 hours"], [86_400, "24 hours"]];
const LONGEST_S = 86_400;
const LONGEST_LOAD_S = 3600; // what is loading when the time begins was begun before
const MOST_SWAPS = 50;
const MOST_IDLE_LANES = 20;
const MOST_DRAWING = 0.02; // part of the time; the browser takes several times as long to paint it
const LEGEND = [["loading", "loading"], ["serving", "serving"], ["holding", "holding (in memory, idle)"], ["draining", "draining, unloading"]];
// When it serves, it is in memory, too.
const SAID = { holding: "in memory", draining: "draining or unloading" };

// Where a phase lies in its lane: what only waits in memory is low, so that the shape tells it, too.
const BOX = { loading: [3, HEIGHT - 6], serving: [3, HEIGHT - 6], holding: [HEIGHT - 11, 8], draining: [3, HEIGHT - 6] };

function patterns() {
  const pattern = (id, size, ...marks) =>
    s("pattern", { id, width: size, height: size, patternUnits: "userSpaceOnUse", patternTransform: id === "hatch" ? "rotate(45)" : null }, marks);
  return s("svg", { class: "patterns", width: 0, height: 0, "aria-hidden": "true", focusable: "false" },
    pattern("hatch", 6, s("rect", { class: "loading-ground", width: 6, height: 6 }), s("rect", { class: "loading-mark", width: 2.5, height: 6 })),
    pattern("dots", 5, s("rect", { class: "draining-ground", width: 5, height: 5 }), s("circle", { class: "draining-mark", cx: 2.5, cy: 2.5, r: 1.3 })));
}

function block(phase, x, width, top = BOX[phase][0], height = BOX[phase][1]) {
  const fill = { loading: "url(#hatch)", draining: "url(#dots)" }[phase] ?? null;
  return s("rect", { class: `phase ${phase}`, x: x.toFixed(1), y: top, width: Math.max(width, 1).toFixed(1), height, rx: 1.5, fill });
}

function legend() {
  const entry = ([phase, label]) => h("li", {},
    s("svg", { width: 26, height: 14, "aria-hidden": "true" }, block(phase, 0, 26, phase === "holding" ? 6 : 1, phase === "holding" ? 6 : 12)), label);
  const trouble = ([kind, label]) => h("li", {}, s("svg", { width: 26, height: 14, "aria-hidden": "true" }, mark(kind)), label);
  return h("ul", { class: "legend" }, LEGEND.map(entry), TROUBLES.map(trouble));
}

class Timeline {
  constructor(store) {
    this.store = store;
    this.lanes = new Lanes();
    this.troubles = new Troubles();
    this.length = 600;
    this.complete = null; // since when all states are known, if there is a history
    this.idle = 0; // models that have no lane, as they were not in memory
    this.pending = null; // the timer of `later`
    this.spent = 0; // milliseconds, on the latest picture
    this.failure = "";
    this.cut = null; // what was before this is too much to be drawn
    this.note = h("p", { class: "note" });
    this.rows = h("div", { class: "lane-rows", tabindex: "0", role: "region", "aria-label": "Lanes" });
    this.axis = s("svg", { class: "axis", height: 20, "aria-hidden": "true" });
    this.cost = h("p", { class: "cost" });
    this.swaps = h("tbody");
    this.choice = h("select", { id: "timeline-window", onchange: () => this.resize() },
      WINDOWS.map(([seconds, label]) => h("option", { value: seconds }, label)));
  }

  parts() {
    const heads = ["Time", "From", "To", "Reason", "Drain", "Unload", "Load"].map((name) => h("th", { scope: "col" }, name));
    const table = h("table", { class: "swaps" }, h("thead", {}, h("tr", {}, heads)), this.swaps);
    return [
      h("p", { class: "controls" }, h("label", { for: "timeline-window" }, "The last "), this.choice),
      patterns(), legend(), this.rows, this.troubles.row, h("div", { class: "axis-row" }, h("span"), this.axis), this.cost, this.note,
      h("details", {}, h("summary", {}, `Swaps as a table, the latest ${MOST_SWAPS}`), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Swaps" }, table)),
    ];
  }

  resize() {
    this.length = Number(this.choice.value);
    this.recall();
    this.draw();
  }

  // The history of the window, beside what was seen.
  async recall() {
    if (!recorded(this.store)) return this.draw();
    const length = this.length, from = now() - length, begun = from - LONGEST_LOAD_S;
    const kinds = [["states", begun], ["requests", from], ["swaps", from], ["problems", now() - LONGEST_S]];
    try {
      const [states, requests, swaps, problems] = await Promise.all(kinds.map(([kind, since]) => listed(kind, { since: Math.max(0, since).toFixed(3) })));
      for (const problem of problems.found) this.troubles.add(problem);
      if (length === this.length) this.fill(begun, states, requests, swaps); // else another time was chosen meanwhile
    } catch (error) {
      if (isOff(error)) return this.store.setHistoryOff();
      this.failure = `The history could not be read: ${error.message}.`;
    }
    return this.draw();
  }

  fill(begun, states, requests, swaps) {
    const lanes = new Lanes();
    for (const { model, time, state } of states.found.toReversed()) lanes.state(model, epoch(time), state);
    for (const request of requests.found) lanes.request(request);
    for (const swap of swaps.found) lanes.swap(swap);
    lanes.merge(this.lanes);
    this.lanes = lanes;
    this.failure = "";
    const ends = [states, requests, swaps].map((list) => (list.complete ? 0 : epoch(list.found.at(-1).time)));
    this.cut = Math.max(...ends) || null;
    this.complete = Math.max(begun, states.complete ? 0 : epoch(states.found.at(-1).time));
    this.observe();
  }

  observe() {
    for (const models of this.store.weights().values()) if (!models[0].remote) this.lanes.observe(models, now());
  }

  // Soon: what comes in quick succession is drawn once, and a long time less often, as it moves less.  A picture that
  // takes long is drawn less often, too.
  later() {
    this.pending ??= setTimeout(() => {
      this.pending = null;
      this.draw();
    }, Math.max(Math.min(5000, this.length / 2.4), this.spent / MOST_DRAWING));
  }

  draw() {
    const began = performance.now(), to = now(), from = to - this.length;
    const width = Math.max(120, this.axis.getBoundingClientRect().width || 600);
    const scale = { from, to, width, x: (moment) => ((moment - from) / this.length) * width, ticks: ticks(from, to, width) };
    keyed(this.rows, this.shown(), (names) => names[0], lane, (row, names) => this.drawLane(row, names, scale));
    this.troubles.draw(scale);
    this.drawAxis(scale);
    this.drawSwaps(from, to);
    text(this.note, this.caveat());
    this.spent = performance.now() - began;
  }

  // The configured ones unless they are many, and all that were in memory: the names of each, the one it goes by first.
  shown() {
    const from = now() - this.length;
    const active = (names) => this.lanes.phases(names, from, now(), this.complete ?? undefined).length > 0;
    const all = [...this.store.weights()].filter(([, [first]]) => !first.remote).map(([name, models]) =>
      ({ names: [name, ...models.map((model) => model.name).filter((other) => other !== name)],
        configured: models.some((model) => model.configured && model.status !== "missing") }));
    const configured = all.filter((one) => one.configured);
    const few = configured.length <= MOST_IDLE_LANES;
    const present = all.filter((one) => (few && one.configured) || active(one.names));
    this.idle = few ? 0 : configured.filter((one) => !present.includes(one)).length;
    const gone = [...this.lanes.points.keys()].filter((name) => !this.store.models.has(name) && active([name]));
    return [...present.map((one) => one.names), ...gone.map((name) => [name])];
  }

  drawLane(row, names, { from, to, width, x, ticks: marks }) {
    const phases = this.lanes.phases(names, from, to, this.complete ?? undefined);
    const serving = this.lanes.serving(names, from, to, (to - from) / width);
    const drawn = [...phases, ...serving.map((span) => ({ phase: "serving", ...span }))].map((span) => {
      const rect = block(span.phase, x(span.from), x(span.to) - x(span.from));
      rect.append(s("title", {}, `${SAID[span.phase] ?? span.phase} ${duration(span.to - span.from)}, ${clock(span.from)} to ${clock(span.to)}`));
      return rect;
    });
    const [label, picture] = row.children, name = names.join(" = ");
    text(label, name);
    attribute(label, "title", name);
    attribute(picture, "aria-label", `${name}: ${spoken(phases, serving)}`);
    const lines = marks.map((moment) => s("line", { class: "grid", x1: x(moment), x2: x(moment), y1: 0, y2: HEIGHT }));
    picture.replaceChildren(...lines, ...drawn);
  }

  drawAxis({ x, width, ticks: marks }) {
    const dates = this.length > 43_200;
    const label = (moment) => (dates && new Date(moment * 1000).getHours() === 0 ? day(moment) : clock(moment, false));
    this.axis.replaceChildren(...marks.filter((moment) => x(moment) > 18 && x(moment) < width - 18)
      .map((moment) => s("text", { x: x(moment), y: 14, "text-anchor": "middle" }, label(moment))));
  }

  drawSwaps(from, to) {
    const swaps = this.lanes.swapsWithin(from, to);
    text(this.cost, cost(swaps, Math.max(from, this.seenSince()), to));
    keyed(this.swaps, swaps.slice(0, MOST_SWAPS), (swap) => `${swap.time} ${swap.to_model}`, swapRow, () => {});
  }

  // Since when swaps would be known: this proxy began, or an earlier one had begun that told of anything.
  seenSince() {
    if (this.complete === null) return this.store.opened;
    return Math.max(this.cut ?? 0, Math.min(epoch(this.store.status?.started_at) ?? Infinity, this.lanes.earliest));
  }

  caveat() {
    if (this.failure) return this.failure;
    const left = this.idle ? `Not in memory in this time: ${plural(this.idle, "other model")}. ` : "";
    if (this.cut > now() - this.length) return `${left}What was before ${clock(this.cut)} is too much to be drawn.`;
    return this.complete !== null || !this.store.config ? left : `${left}No history is kept: this is what was seen since the page was opened at ${clock(this.store.opened)}.`;
  }
}

// How long swaps took within [from, to], which is the time that was seen.
export function cost(swaps, from, to) {
  if (!swaps.length) return "No swap in this time.";
  const within = (swap) => Math.min(swap.drain_s + swap.unload_s + swap.load_s, Math.max(0, epoch(swap.time) - from));
  const spent = swaps.reduce((sum, swap) => sum + within(swap), 0);
  const share = Math.min(100, (100 * spent) / Math.max(to - from, 0.001)).toFixed(1);
  return `${plural(swaps.length, "swap")} took ${duration(spent)}, ${share} % of the ${duration(to - from)} seen.`;
}

const lane = () => h("div", { class: "lane" }, h("span", { class: "label" }), s("svg", { height: HEIGHT, role: "img" }));

function swapRow(swap) {
  const cells = [clock(epoch(swap.time)), swap.from_model || "–", swap.to_model, swap.failed ? `${swap.reason}, failed` : swap.reason,
    duration(swap.drain_s), duration(swap.unload_s), duration(swap.load_s)];
  return h("tr", {}, cells.map((value) => h("td", {}, value)));
}

function ticks(from, to, width) {
  const step = STEPS.find((one) => ((to - from) / one) * TICK_PX <= width) ?? STEPS.at(-1);
  const offset = new Date(from * 1000).getTimezoneOffset() * 60; // whole hours where the reader is
  const first = Math.ceil((from - offset) / step) * step + offset;
  return Array.from({ length: Math.max(0, Math.ceil((to - first) / step)) }, (_, index) => first + index * step);
}

function spoken(phases, serving) {
  const total = (spans) => spans.reduce((sum, span) => sum + span.to - span.from, 0);
  const told = ["loading", "holding", "draining"].map((phase) => [SAID[phase] ?? phase, phases.filter((span) => span.phase === phase)]);
  const parts = [...told, ["serving", serving]].filter(([, spans]) => spans.length).map(([phase, spans]) => `${phase} ${duration(total(spans))}`);
  return parts.join(", ") || "not in memory";
}

export function mount(store, live) {
  const timeline = new Timeline(store);
  body("timeline").append(...timeline.parts());
  const lanes = () => timeline.lanes;
  store.on(["config"], () => store.config && timeline.recall());
  store.on(["models"], () => {
    timeline.observe();
    timeline.later();
  });
  live.on("state", ({ model, time, state }) => {
    lanes().state(model, epoch(time), state);
    timeline.later();
  });
  live.on("request", (request) => lanes().request(request));
  live.on("problem", (problem) => timeline.troubles.add(problem));
  live.on("swap", (swap) => {
    lanes().swap(swap);
    timeline.later();
  });
  live.on("again", () => timeline.recall());
  new ResizeObserver(() => timeline.draw()).observe(timeline.axis);
  setInterval(() => {
    lanes().forget(now() - LONGEST_S);
    timeline.troubles.forget(now() - LONGEST_S);
    timeline.later();
  }, 2000);
}
