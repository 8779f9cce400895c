// A prompt to a model, with its answer as it comes.

import { generate, pieces } from "./api.js";
import { attribute, body, h, text } from "./dom.js";
import { duration, plural, rate } from "./format.js";
import { now } from "./store.js";

const NANO = 1e9;

function summary(last, started) {
  const tokens = last.eval_count ?? 0;
  const speed = last.eval_duration ? tokens / (last.eval_duration / NANO) : null;
  const loading = last.load_duration > 0.05 * NANO ? `, loading ${duration(last.load_duration / NANO)}` : "";
  return `Done: ${plural(tokens, "token")} in ${duration(now() - started)}${loading}${speed ? `, ${rate(speed)} tokens/s` : ""}.`;
}

class Box {
  constructor(store) {
    this.store = store;
    this.running = null;
    this.unseen = ""; // what has come of the answer since the last frame
    this.frame = null;
    this.model = h("select", { id: "prompt-model" });
    this.input = h("textarea", { id: "prompt-text", rows: "3", placeholder: "Why is the sky blue?" });
    this.send = h("button", { type: "submit", class: "primary" }, "Send");
    this.stop = h("button", { type: "button", onclick: () => this.running?.abort(), "aria-disabled": "true" }, "Stop");
    this.told = h("p", { class: "note", role: "status", "aria-live": "polite" });
    this.output = h("pre", { class: "answer", tabindex: "0", role: "region", "aria-label": "Answer" });
    this.form = h("form", { onsubmit: (event) => this.submit(event) },
      h("p", { class: "field" }, h("label", { for: "prompt-model" }, "Model"), this.model),
      h("p", { class: "field" }, h("label", { for: "prompt-text" }, "Prompt"), this.input),
      h("p", { class: "buttons" }, this.send, this.stop));
  }

  choices() {
    const usable = [...this.store.models.values()].filter((model) => model.type !== "embedding" && model.status !== "missing");
    const names = usable.map((model) => model.name);
    if (names.join("\n") === [...this.model.options].map((option) => option.value).join("\n")) return;
    const chosen = this.model.value || this.store.status?.active_model;
    this.model.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
    if (names.includes(chosen)) this.model.value = chosen;
  }

  async submit(event) {
    event.preventDefault();
    if (this.running) return;
    if (!this.model.value || !this.input.value.trim()) {
      text(this.told, this.model.value ? "Write a prompt first." : "There is no model to ask.");
      return;
    }
    this.running = new AbortController();
    this.busy(true);
    try {
      await this.ask(this.running.signal);
    } catch (error) {
      text(this.told, error.name === "AbortError" ? "Stopped." : `Failed: ${error.message}`);
    } finally {
      this.draw(); // in a hidden page, no frame comes
      this.running = null;
      this.busy(false);
    }
  }

  async ask(signal) {
    const started = now();
    this.output.textContent = "";
    const model = this.model.value;
    text(this.told, `Waiting for ${model} …`);
    const answer = await generate({ model, prompt: this.input.value }, signal);
    for await (const line of pieces(answer.body, "\n")) {
      if (!line.trim()) continue;
      const piece = JSON.parse(line);
      if (piece.error) throw new Error(piece.error.message ?? piece.error);
      text(this.told, piece.done ? summary(piece, started) : `${model} ${piece.thinking ? "thinks" : "answers"} …`);
      if (piece.response) this.show(piece.response);
    }
  }

  // Once a frame, however many pieces come: whether the reader is at the end takes a layout of the whole answer to know.
  show(response) {
    this.unseen += response;
    this.frame ??= requestAnimationFrame(() => this.draw());
  }

  // The end stays in sight, unless the reader went up.
  draw() {
    if (this.frame !== null) cancelAnimationFrame(this.frame);
    this.frame = null;
    if (!this.unseen) return;
    const { scrollHeight, scrollTop, clientHeight } = this.output;
    const atEnd = scrollHeight - scrollTop - clientHeight < 20;
    for (const part of this.unseen.split(/(?<=\n)/)) this.write(part);
    this.unseen = "";
    if (atEnd) this.output.scrollTop = this.output.scrollHeight;
  }

  // A block for each line: then only the last one has to be laid out again.
  write(part) {
    const last = this.output.lastElementChild;
    const line = last && !last.textContent.endsWith("\n") ? last : this.output.appendChild(h("div"));
    line.append(part);
  }

  busy(running) {
    attribute(this.send, "aria-disabled", running ? "true" : null);
    attribute(this.stop, "aria-disabled", running ? null : "true");
    attribute(this.output, "aria-busy", running);
  }
}

export function mount(store) {
  const box = new Box(store);
  body("prompt").append(box.form, box.told, box.output);
  store.on(["models"], () => box.choices());
}
