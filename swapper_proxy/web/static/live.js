// The connection: /events, and where it is missing or lost, a look every two seconds.

import { get, opened } from "./api.js";
import { Source } from "./events.js";
import { now } from "./store.js";

const POLL_MS = 2000;
const CHECK_MS = 15_000;

export class Live {
  constructor(store) {
    this.store = store;
    this.source = null;
    this.supported = null; // whether the proxy has /events: null while it is not known
    this.observers = { state: [], swap: [], request: [], problem: [], again: [] };
  }

  // `again` is told when the connection is back: what happened meanwhile is in the history.
  on(kind, observer) {
    this.observers[kind].push(observer);
  }

  start() {
    this.listen();
    setInterval(() => this.look(), POLL_MS);
    setInterval(() => this.check(), CHECK_MS);
  }

  listen() {
    this.source?.close();
    const handlers = {
      snapshot: (data) => this.store.snapshot(data),
      status: (data) => this.store.setStatus(data),
      models: (data) => this.store.setModels(data),
      queue: (data) => this.store.setQueue(data),
      problem: (data) => {
        this.store.addProblem(data);
        this.tell("problem", data);
      },
      state: (data) => this.tell("state", data),
      swap: (data) => this.tell("swap", data),
      request: (data) => this.tell("request", data),
    };
    this.source = new Source((kind, data) => handlers[kind] && this.heard(handlers[kind], data), (source) => this.failed(source));
  }

  heard(handler, data) {
    this.supported = true;
    this.connected("live");
    handler(JSON.parse(data));
  }

  tell(kind, data) {
    for (const observer of this.observers[kind]) observer(data);
  }

  connected(state) {
    const back = this.store.connection === "lost";
    this.store.setConnection(state);
    if (back) this.tell("again");
  }

  failed(source) {
    if (source !== this.source) return;
    if (source.isClosed) this.source = null; // answered, but with no stream: see `look`
    else this.look();
  }

  // A connection that died without a word, as that of a computer that slept.
  async check() {
    if (!this.source?.isOpen) return;
    try {
      await get("ready").catch((error) => (error.status ? null : Promise.reject(error)));
    } catch {
      this.store.setConnection("lost");
      this.listen();
    }
  }

  // Nothing to do while events come in.
  async look() {
    if (this.source?.isOpen || this.looking) return;
    this.looking = true;
    try {
      const snapshot = await looked();
      if (this.source?.isOpen) return;
      this.poll(snapshot);
      if (!this.source) await this.retry();
    } catch (error) {
      this.store.setConnection(error.status === 401 ? "locked" : "lost");
    } finally {
      this.looking = false;
    }
  }

  poll(snapshot) {
    const before = new Map(this.store.models);
    this.connected("polling");
    this.store.snapshot(snapshot);
    for (const model of snapshot.models) this.compare(model, before.get(model.name));
  }

  // What an event would have told.
  compare(model, before) {
    if (!before || before.status === model.status || model.name !== model.known_as) return;
    const time = new Date(now() * 1000).toISOString();
    this.tell("state", { time, model: model.name, state: model.status, cause: "" });
    if (model.status === "error") {
      this.store.addProblem({ time, model: model.name, code: "load_failed", message: "the model could not be loaded" });
    }
  }

  async retry() {
    if (this.supported === null) this.supported = await offers();
    if (this.supported) this.listen();
  }
}

// Whether there is a stream of events at all: asked for once, so that a proxy without one is not asked every time.
async function offers() {
  const stop = new AbortController();
  try {
    await opened("events", {}, stop.signal);
    return true;
  } catch (error) {
    if (!error.status) throw error;
    return error.status !== 404;
  } finally {
    stop.abort();
  }
}

// The snapshot that /events begins with, from what the other addresses tell.
async function looked() {
  const [status, { models }, queue] = await Promise.all([get("status"), get("models"), get("queue")]);
  return { status, models, queue };
}
