// The row under the lanes: when Ollama was not reachable, and when requests were refused.

import { attribute, h, s } from "./dom.js";
import { clock, duration, epoch, plural } from "./format.js";

const HEIGHT = 18;
const AWAY = "upstream_unreachable";
const OVER = ["upstream_back", "proxy_stopped"];
export const LEGEND = [["away", "Ollama is away"], ["refused", "requests refused"]];

const keyOf = ({ time, model, code, status, sent }) => JSON.stringify([time, model, code, status, sent]);

export class Troubles {
  constructor() {
    this.known = new Map(); // each once: one that grows is told again
    this.picture = s("svg", { height: HEIGHT, role: "img" });
    this.row = h("div", { class: "axis-row troubles" }, h("span", { class: "label" }, "Troubles"), this.picture);
  }

  add(problem) {
    const key = keyOf(problem);
    if ((this.known.get(key)?.count ?? 0) <= problem.count) this.known.set(key, problem);
  }

  forget(before) {
    const old = [...this.known].filter(([, { until, code, status }]) => epoch(until) < before && (status || ![AWAY, ...OVER].includes(code)));
    for (const [key] of old) this.known.delete(key);
  }

  // When Ollama was not reachable within [from, to].
  outages(from, to) {
    const turns = [...this.known.values()].filter(({ model, status, code }) => !model && !status && [AWAY, ...OVER].includes(code));
    turns.sort((a, b) => epoch(a.time) - epoch(b.time));
    const spans = turns.flatMap(({ time, code }, index) => (code === AWAY ? [{ from: epoch(time), to: turns[index + 1] ? epoch(turns[index + 1].time) : to }] : []));
    if (OVER.includes(turns[0]?.code)) spans.unshift({ from, to: epoch(turns[0].time) }); // it began before all that is known
    return spans.map((span) => ({ from: Math.max(from, span.from), to: Math.min(to, span.to) })).filter((span) => span.from < span.to);
  }

  refusals(from, to) {
    return [...this.known.values()].filter(({ status, time, until }) => status && epoch(until) >= from && epoch(time) <= to);
  }

  draw({ from, to, x, ticks }) {
    const outages = this.outages(from, to), refusals = this.refusals(from, to);
    const away = outages.map((span) => titled(s("rect", { class: "away", x: x(span.from), y: 2, width: Math.max(1, x(span.to) - x(span.from)), height: HEIGHT - 4 }),
      `Ollama was not reachable for ${duration(span.to - span.from)}, ${clock(span.from)} to ${clock(span.to)}`));
    const refused = refusals.map((one) => {
      const begin = x(Math.max(from, epoch(one.time))), end = x(Math.min(to, epoch(one.until)));
      return titled(s("rect", { class: "refused", x: begin, y: 7, width: Math.max(3, end - begin), height: HEIGHT - 14 }), told(one));
    });
    this.picture.replaceChildren(...ticks.map((moment) => s("line", { class: "grid", x1: x(moment), x2: x(moment), y1: 0, y2: HEIGHT })), ...away, ...refused);
    attribute(this.picture, "aria-label", `Troubles: ${summary(outages, refusals)}`);
    return summary(outages, refusals);
  }
}

export function mark(kind) {
  return s("rect", { class: kind, x: 0, y: kind === "away" ? 1 : 5, width: 26, height: kind === "away" ? 12 : 4 });
}

function titled(rect, title) {
  rect.append(s("title", {}, title));
  return rect;
}

const told = ({ count: number, status, code, model, time, until, message }) =>
  `${plural(number, "request")}${model ? ` for ${model}` : ""} refused with ${status} ${code}, ${clock(epoch(time))} to ${clock(epoch(until))}: ${message}`;

function summary(outages, refusals) {
  const away = outages.reduce((sum, span) => sum + span.to - span.from, 0), refused = refusals.reduce((sum, one) => sum + one.count, 0);
  const parts = [away ? `Ollama was not reachable for ${duration(away)}` : "", refused ? `${plural(refused, "request was refused", "requests were refused")}` : ""];
  return parts.filter(Boolean).join(", ") || "none";
}
