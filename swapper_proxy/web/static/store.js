// What is known of the proxy now. Views subscribe, and are drawn at most once a frame.

import { epoch } from "./format.js";

const PROBLEMS = 100;

export class Store {
  constructor() {
    this.connection = "connecting"; // or live, polling, lost, locked
    this.opened = Date.now() / 1000;
    this.status = null;
    this.models = new Map();
    this.queue = { waiting: 0, requests: [], models: [], warnings: [], received: 0 };
    this.config = null;
    this.simulated = false; // whether there is no real Ollama
    this.historyOff = false; // in spite of the configuration
    this.problems = [];
    this.messages = new Map(); // of a model: what the proxy said to a click
    this.listeners = new Map();
    this.due = new Set();
  }

  // The view is called for each of these topics, and once in the beginning.
  on(topics, view) {
    for (const topic of topics) this.listeners.set(topic, [...(this.listeners.get(topic) ?? []), view]);
    this.schedule(view);
  }

  changed(topic) {
    for (const view of this.listeners.get(topic) ?? []) this.schedule(view);
  }

  schedule(view) {
    if (!this.due.size) setTimeout(() => this.draw(), 16); // unlike a frame, it comes in hidden pages, too
    this.due.add(view);
  }

  draw() {
    const views = [...this.due];
    this.due.clear();
    for (const view of views) view(this);
  }

  // What comes in

  setConnection(state) {
    if (this.connection === state) return;
    this.connection = state;
    this.changed("connection");
  }

  setStatus(status) {
    this.status = status;
    const gone = [...this.models.keys()].filter((name) => !status.available_models.includes(name));
    for (const name of gone) this.models.delete(name);
    if (gone.length) this.changed("models");
    this.changed("status");
  }

  setQueue(queue) {
    this.queue = { ...queue, received: now() };
    this.changed("queue");
  }

  setHistoryOff() {
    this.historyOff = true;
    this.changed("config");
  }

  setSimulated(simulated) {
    this.simulated = simulated;
    this.changed("status");
  }

  setConfig(config) {
    this.historyOff = false;
    this.config = config;
    this.changed("config");
  }

  snapshot({ status, models, queue }) {
    this.setStatus(status);
    this.setModels(models);
    this.setQueue(queue);
  }

  setModels(models) {
    for (const model of models) {
      const before = this.models.get(model.name);
      this.models.set(model.name, { ...model, since: upSince(model, before) });
      if (before && before.status !== model.status) this.messages.delete(model.name);
    }
    this.changed("models");
  }

  // The models by the name that their weights go by: several may be names of the same.
  weights() {
    const found = new Map();
    for (const model of this.models.values()) {
      if (!found.has(model.known_as)) found.set(model.known_as, []);
      found.get(model.known_as).push(model);
    }
    return found;
  }

  setMessage(model, message) {
    this.messages.set(model, message);
    this.changed("models");
  }

  // One that has grown is told again.
  addProblem(problem) {
    const same = (other) => ["time", "model", "code", "status", "sent"].every((key) => other[key] === problem[key]);
    const known = this.problems.find(same);
    if (known && known.count >= problem.count) return;
    this.problems = [...this.problems.filter((other) => other !== known), problem].sort((a, b) => epoch(b.time) - epoch(a.time)).slice(0, PROBLEMS);
    this.changed("problems");
  }
}

// The time at the proxy: what it tells is drawn beside what is seen here, and the clock of a phone may be wrong.
let ahead = 0;
export const now = () => Date.now() / 1000 + ahead;

// To the second, so that small differences are none.
export function setClock(moment) {
  const difference = moment + 0.5 - Date.now() / 1000;
  if (Math.abs(difference - ahead) > 2) ahead = Math.abs(difference) > 2 ? difference : 0;
}

// When its present stay began: kept while the reports agree, so that the clock does not jump.
function upSince(model, before) {
  if (!model.uptime_s) return null;
  const since = now() - model.uptime_s;
  return before?.since && Math.abs(before.since - since) < 2 ? before.since : since;
}
