// What each model did over time: from the history, and from what is seen while the page is open.  What is kept is kept by
// name; the names of the same weights are asked for together, as they have one state.

import { epoch } from "./format.js";

const PHASES = { loading: "loading", loaded: "holding", draining: "draining", unloading: "draining" };
// What a model was before the first thing that is known of it.  One that is loaded need not have been loading before: it
// may have been found in memory.
const BEFORE = { draining: "loaded", unloading: "loaded", unloaded: "loaded" };
// Requests so close to each other are kept as one: it is less than a pixel of the shortest time that is shown.
const GAP_S = 0.25;

export class Lanes {
  constructor() {
    this.points = new Map(); // of a model: [{time, state}], in the order of time
    this.spans = new Map(); // of a model: [{from, to}] of its requests
    this.busy = new Map(); // of a model that serves now: since when
    this.swaps = [];
    this.earliest = Infinity; // that anything is known of
  }

  state(model, time, state) {
    this.earliest = Math.min(this.earliest, time);
    const points = list(this.points, model);
    points.push({ time, state });
    if (points.length > 1 && points.at(-2).time > time) points.sort((a, b) => a.time - b.time);
  }

  // The models that are names of the same weights, as they are now; only what differs from what is known is new.
  observe(models, now) {
    const names = models.map((model) => model.name), { known_as: name, status, since } = models[0];
    const points = this.pointsOf(names);
    if ((points.at(-1)?.state ?? "unloaded") !== status) {
      const earlier = !points.length && status === "loaded" ? since : null;
      this.state(name, earlier ?? now, status);
    }
    for (const model of models) this.serves(model.name, model.in_flight > 0, now);
  }

  pointsOf(names) {
    const found = names.flatMap((name) => this.points.get(name) ?? []);
    return names.length > 1 ? found.sort((a, b) => a.time - b.time) : found;
  }

  serves(model, busy, now) {
    const from = this.busy.get(model);
    if (busy && from === undefined) this.busy.set(model, now);
    if (busy || from === undefined) return;
    this.busy.delete(model);
    const spans = list(this.spans, model);
    const ends = spans.map((span) => span.to).filter((end) => end > from); // more exact than the look that finds it idle
    spans.push({ from, to: ends.length ? ends.reduce((a, b) => Math.max(a, b)) : now });
  }

  request({ model, time, duration_s: duration, wait_s: wait }) {
    const end = epoch(time), from = end - Math.max(0, duration - wait);
    this.earliest = Math.min(this.earliest, from);
    list(this.spans, model).push({ from, to: end });
  }

  swap(swap) {
    const same = (other) => other.time === swap.time && other.to_model === swap.to_model;
    if (this.swaps.some(same)) return;
    this.earliest = Math.min(this.earliest, epoch(swap.time));
    this.swaps.push(swap);
  }

  // What was seen beside the history, which is written a little later than it happens.
  merge(seen) {
    for (const [model, points] of seen.points) {
      const latest = this.points.get(model)?.at(-1).time ?? -Infinity;
      for (const { time, state } of points) if (time > latest) this.state(model, time, state);
    }
    for (const [model, spans] of seen.spans) list(this.spans, model).push(...spans);
    for (const swap of seen.swaps) this.swap(swap);
    this.busy = new Map(seen.busy);
  }

  // Of a model with these names within [from, to]: its phases in the order of time.  From `complete` on all its states
  // are known.
  phases(names, from, to, complete = Infinity) {
    const points = this.pointsOf(names);
    const found = [];
    const first = points[0];
    if (first && BEFORE[first.state]) add(found, BEFORE[first.state], complete, first.time, from, to);
    points.forEach(({ time, state }, index) => add(found, state, time, points[index + 1]?.time ?? to, from, to));
    return found;
  }

  // When it served within [from, to]; what lies closer than `gap` seconds is one.
  serving(names, from, to, gap) {
    const spans = names.flatMap((name) => this.spans.get(name) ?? []);
    for (const name of names) if (this.busy.has(name)) spans.push({ from: this.busy.get(name), to });
    const within = spans.map((span) => ({ from: Math.max(from, span.from), to: Math.min(to, span.to) }));
    return merged(within.filter((span) => span.from < span.to), gap);
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
    for (const [model, spans] of this.spans) this.spans.set(model, merged(spans.filter((span) => span.to >= before), GAP_S));
    this.swaps = this.swaps.filter((swap) => epoch(swap.time) >= before);
  }
}

function list(map, key) {
  if (!map.has(key)) map.set(key, []);
  return map.get(key);
}

// Spans that lie closer than `gap` seconds are one.
function merged(spans, gap) {
  const found = [];
  for (const { from, to } of spans.sort((a, b) => a.from - b.from)) {
    const last = found.at(-1);
    if (last && from - last.to <= gap) last.to = Math.max(last.to, to);
    else found.push({ from, to });
  }
  return found;
}

function add(found, state, begin, end, from, to) {
  const phase = PHASES[state];
  const span = { phase, from: Math.max(from, begin), to: Math.min(to, end) };
  if (!phase || span.from >= span.to) return;
  const last = found.at(-1);
  if (last?.phase === phase && last.to === span.from) last.to = span.to;
  else found.push(span);
}
