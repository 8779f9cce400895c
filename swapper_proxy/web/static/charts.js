// Requests, waits and tokens per hour or day, from the history.

import { get } from "./api.js";
import { body, h, s, text } from "./dom.js";
import { briefly, clock, compact, count, day, duration, epoch } from "./format.js";
import { isOff, recorded } from "./history.js";
import { now } from "./store.js";

const WIDTH = 360, HEIGHT = 150, LEFT = 54, BOTTOM = 20, TOP = 8;
const SPANS = { hour: { size: 3600, buckets: 24, label: "24 hours, by hour" }, day: { size: 86_400, buckets: 14, label: "14 days, by day (UTC)" } };
const REFRESH_MS = 5000; // if there was a request; the hours pass anyway
const IDLE = 12; // looks without a request until one is made nevertheless

const EMPTY = { requests: 0, errors: 0, refused: 0, prompt_tokens: 0, generated_tokens: 0, wait_s_mean: 0, wait_s_max: 0 };

// Two values of each bucket; stacked, or one in front of the other.
const CHARTS = [
  { title: "Requests", stacked: true, show: compact, tell: count, series: [["answered", (b) => b.requests - b.errors], ["failed or refused", (b) => b.errors + b.refused]] },
  { title: "Time in the queue", stacked: false, show: briefly, tell: duration, series: [["longest", (b) => b.wait_s_max], ["mean", (b) => b.wait_s_mean]] },
  { title: "Tokens", stacked: true, show: compact, tell: count, series: [["generated", (b) => b.generated_tokens], ["prompt", (b) => b.prompt_tokens]] },
];

// One bucket for each hour or day, the empty ones too; all models together.
export function buckets(usage, by, moment) {
  const { size, buckets: number } = SPANS[by];
  const last = Math.floor(moment / size) * size;
  const found = new Map(Array.from({ length: number }, (_, index) => last - (number - 1 - index) * size).map((start) => [start, { ...EMPTY, start }]));
  for (const row of usage) {
    const bucket = found.get(epoch(row.start));
    if (bucket) take(bucket, row);
  }
  return [...found.values()];
}

function take(bucket, row) {
  const requests = bucket.requests + row.requests;
  const waits = (bucket.wait_s_mean ?? 0) * bucket.requests + (row.wait_s_mean ?? 0) * row.requests;
  bucket.wait_s_mean = requests ? waits / requests : 0;
  bucket.wait_s_max = Math.max(bucket.wait_s_max, row.wait_s_max ?? 0);
  for (const key of ["requests", "errors", "refused", "prompt_tokens", "generated_tokens"]) bucket[key] += row[key];
}

// The next round number that can be halved, so that the axis ends at one.
export function rounded(value) {
  if (value <= 0) return 2;
  const unit = 10 ** Math.floor(Math.log10(value));
  return [2, 4, 6, 8, 10].map((step) => step * unit).find((top) => top >= value);
}

function axis(most, show) {
  const line = (share) => {
    const y = TOP + (1 - share) * (HEIGHT - TOP - BOTTOM);
    return [s("line", { class: "grid", x1: LEFT, x2: WIDTH, y1: y, y2: y }), s("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, show(most * share))];
  };
  return [0, 0.5, 1].flatMap(line);
}

function drawn(chart, found, by) {
  const values = found.map((bucket) => chart.series.map(([, value]) => value(bucket)));
  const most = rounded(Math.max(...values.map(([a, b]) => (chart.stacked ? a + b : Math.max(a, b)))));
  const high = (value) => (value / most) * (HEIGHT - TOP - BOTTOM);
  const pitch = (WIDTH - LEFT) / found.length;
  const bar = (kind, index, value, below) =>
    s("rect", { class: `bar-${kind}`, x: LEFT + index * pitch + 1, y: HEIGHT - BOTTOM - high(value + below), width: Math.max(1, pitch - 2), height: high(value) });
  const column = ([a, b], index) => {
    const tip = `${when(found[index].start, by)}: ${chart.series.map(([name], place) => `${chart.tell([a, b][place])} ${name}`).join(", ")}`;
    return s("g", {}, s("rect", { class: "hit", x: LEFT + index * pitch, y: TOP, width: pitch, height: HEIGHT - TOP - BOTTOM }),
      a ? bar("first", index, a, 0) : "", b ? bar("second", index, b, chart.stacked ? a : 0) : "", s("title", {}, tip));
  };
  return [...axis(most, chart.show), ...values.map(column), ...dates(found, pitch, by)];
}

function dates(found, pitch, by) {
  const every = by === "hour" ? 6 : 4;
  return found.flatMap(({ start }, index) => ((found.length - 1 - index) % every ? [] :
    [s("text", { x: Math.min(LEFT + (index + 0.5) * pitch, WIDTH - 16), y: HEIGHT - 5, "text-anchor": "middle" }, by === "hour" ? clock(start, false) : day(start, "UTC"))]));
}

const when = (start, by) => (by === "hour" ? `${day(start)} ${clock(start, false)}` : day(start, "UTC"));

class Charts {
  constructor(store) {
    this.store = store;
    this.note = h("p", { class: "note" });
    this.by = h("select", { id: "usage-by", onchange: () => this.refresh() }, Object.entries(SPANS).map(([by, { label }]) => h("option", { value: by }, label)));
    this.model = h("select", { id: "usage-model", onchange: () => this.refresh() }, h("option", { value: "" }, "all models"));
    this.figures = h("div", { class: "figures" });
    this.rows = h("tbody");
    const heads = ["From", "Requests", "Failed", "Refused", "Mean wait", "Longest wait", "Prompt tokens", "Generated tokens"];
    const table = h("table", {}, h("thead", {}, h("tr", {}, heads.map((name) => h("th", { scope: "col" }, name)))), this.rows);
    this.table = h("details", {}, h("summary", {}, "Usage as a table"), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Usage figures" }, table));
    this.controls = h("p", { class: "controls" }, h("label", { for: "usage-by" }, "The last "), this.by, h("label", { for: "usage-model" }, " of "), this.model);
  }

  async refresh() {
    const kept = recorded(this.store);
    for (const part of [this.controls, this.figures, this.table]) part.hidden = !kept;
    if (!kept) return text(this.note, this.store.config ? "No history is kept, so there are no figures of past hours." : "");
    const by = this.by.value, model = this.model.value, { size, buckets: number } = SPANS[by];
    const since = (Math.floor(now() / size) - number + 1) * size;
    try {
      const { usage } = await get("history/usage", { by, since: String(since), ...(model ? { model } : {}) });
      if (by !== this.by.value || model !== this.model.value) return null; // another choice was made meanwhile
      this.draw(buckets(usage, by, now()), by);
      return text(this.note, "");
    } catch (error) {
      if (isOff(error)) return this.store.setHistoryOff();
      return text(this.note, `The figures could not be read: ${error.message}.`);
    }
  }

  draw(found, by) {
    this.figures.replaceChildren(...CHARTS.map((chart) => this.figure(chart, found, by)));
    const busy = found.filter((bucket) => bucket.requests || bucket.refused).reverse();
    this.rows.replaceChildren(...busy.map((bucket) => h("tr", {}, [when(bucket.start, by), count(bucket.requests), count(bucket.errors), count(bucket.refused),
      duration(bucket.wait_s_mean), duration(bucket.wait_s_max), count(bucket.prompt_tokens), count(bucket.generated_tokens)].map((value) => h("td", {}, value)))));
  }

  figure(chart, found, by) {
    const total = (value) => found.reduce((sum, bucket) => (chart.stacked ? sum + value(bucket) : Math.max(sum, value(bucket))), 0);
    const told = chart.series.map(([name, value]) => `${chart.tell(total(value))} ${name}`);
    const keys = chart.series.map(([name], index) => h("span", { class: index ? "key second" : "key first" }, name));
    return h("figure", {}, h("figcaption", {}, h("b", {}, chart.title), keys),
      s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${chart.title}: ${told.join(", ")}` }, drawn(chart, found, by)));
  }

  choices() {
    const names = ["", ...this.store.models.keys()];
    if (names.length === this.model.options.length && names.every((name, index) => this.model.options[index].value === name)) return;
    const chosen = this.model.value;
    this.model.replaceChildren(...names.map((name) => h("option", { value: name }, name || "all models")));
    if (names.includes(chosen)) this.model.value = chosen;
  }
}

export function mount(store, live) {
  const charts = new Charts(store);
  body("usage").append(charts.controls, charts.figures, charts.note, charts.table);
  store.on(["config"], () => charts.refresh());
  store.on(["models"], () => charts.choices());
  live.on("again", () => charts.refresh());
  let idle = 0;
  live.on("request", () => (idle = IDLE));
  setInterval(() => {
    if (++idle <= IDLE) return;
    idle = 0;
    charts.refresh();
  }, REFRESH_MS);
}
