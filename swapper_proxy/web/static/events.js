// Server-sent events, read with fetch: an EventSource can send no key. Like one it connects again by itself, and says
// then which event was its last.

import { opened, pieces } from "./api.js";

const AGAIN_MS = 3000;

export class Source {
  // `take` gets the kind and the data of each event; `failed` hears of each end.
  constructor(take, failed) {
    this.take = take;
    this.failed = failed;
    this.isOpen = false;
    this.isClosed = false; // for good: what answered has no events
    this.last = "";
    this.stop = new AbortController();
    this.run();
  }

  close() {
    this.isOpen = false;
    this.stop.abort();
  }

  async run() {
    while (!this.isClosed && !this.stop.signal.aborted) {
      try {
        await this.read();
      } catch (error) {
        this.isClosed = Boolean(error.status);
      }
      this.isOpen = false;
      if (this.stop.signal.aborted) return;
      this.failed(this);
      if (!this.isClosed) await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
  }

  async read() {
    const answer = await opened("events", this.last ? { "Last-Event-ID": this.last } : {}, this.stop.signal);
    this.isOpen = true;
    for await (const block of pieces(answer.body, "\n\n")) {
      const fields = new Map(block.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]));
      if (fields.has("id")) this.last = fields.get("id");
      if (fields.has("data")) this.take(fields.get("event"), fields.get("data"));
    }
  }
}
