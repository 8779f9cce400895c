// What each model did over time: from the history, and from what is seen while the page is open.

import { epoch } from "./format.js";

const PHASES = { loading: "loading", loaded: "holding", draining: "draining", unloading: "draining" };
// What a model was before the first thing that is known of it.
const BEFORE = { draining: "loaded", unloading: "loaded", unloaded: "loaded", loaded: "loading" };

export class Lanes {
  constructor() {
    this.points = new Map(); // of a model: [{time, state}], in the order of time
    this.spans = new Map(); // of a model: [{from, to}] of its requests; `to` is null while it serves
    this.swaps = [];
  }

  state(model, time, state) {
    const points = list(this.points, model);
    points.push({ time, state });
    if (points.length > 1 && points.at(-2).time > time) points.sort((a, b) => a.time - b.time);
  }

  // A model as it is now; only what differs from what is known is new.
  observe(model, now) {
    const points = list(this.points, model.name);
    if ((points.at(-1)?.state ?? "unloaded") !== model.status) {
      const earlier = !points.length && model.status === "loaded" ? model.since : null;
      this.state(model.name, earlier ?? now, model.status);
    }
    this.serves(model.name, model.in_flight > 0, now);
  }

  serves(model, busy, now) {
    const spans = list(this.spans, model);
    const open = spans.find((span) => span.to === null);
    if (busy && !open) spans.push({ from: now, to: null });
    if (!busy && open) open.to = now;
  }

  request({ model, time, duration_s: duration, wait_s: wait }) {
    const end = epoch(time);
    list(this.spans, model).push({ from: end - Math.max(0, duration - wait), to: end });
  }

  swap(swap) {
    const same = (other) => other.time === swap.time && other.to_model === swap.to_model;
    if (!this.swaps.some(same)) this.swaps.push(swap);
  }

  // Of a model within [from, to]: its phases in the order of time, and on top of them when it served.
  phases(model, from, to, known) {
    const points = this.points.get(model) ?? [];
    const found = [];
    const first = points[0];
    if (known && first && first.time > from && BEFORE[first.state]) add(found, BEFORE[first.state], from, first.time, from, to);
    points.forEach(({ time, state }, index) => add(found, state, time, points[index + 1]?.time ?? to, from, to));
    return found;
  }

  // When it served within [from, to]; what lies closer than `gap` seconds is one.
  serving(model, from, to, gap) {
    const within = (this.spans.get(model) ?? []).map((span) => ({ from: Math.max(from, span.from), to: Math.min(to, span.to ?? to) }));
    const merged = [];
    for (const span of within.filter((one) => one.from < one.to).sort((a, b) => a.from - b.from)) {
      const last = merged.at(-1);
      if (last && span.from - last.to <= gap) last.to = Math.max(last.to, span.to);
      else merged.push(span);
    }
    return merged;
  }

  swapsWithin(from, to) {
    const within = this.swaps.filter((swap) => epoch(swap.time) >= from && epoch(swap.time) <= to);
    return within.sort((a, b) => epoch(b.time) - epoch(a.time));
  }

  // Forget what is older than anything that is shown.
  forget(before) {
    for (const [model, points] of this.points) {
      const kept = points.findLastIndex((point) => point.time < before);
      if (kept > 0) this.points.set(model, points.slice(kept));
    }
    for (const [model, spans] of this.spans) this.spans.set(model, spans.filter((span) => span.to === null || span.to >= before));
    this.swaps = this.swaps.filter((swap) => epoch(swap.time) >= before);
  }
}

function list(map, key) {
  if (!map.has(key)) map.set(key, []);
  return map.get(key);
}

function add(found, state, begin, end, from, to) {
  const phase = PHASES[state];
  const span = { phase, from: Math.max(from, begin), to: Math.min(to, end) };
  if (!phase || span.from >= span.to) return;
  const last = found.at(-1);
  if (last?.phase === phase && last.to === span.from) last.to = span.to;
  else found.push(span);
}
