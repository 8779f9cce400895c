// The settings as they took effect.

import { body, h } from "./dom.js";

const plain = (value) => {
  if (value === null) return "–";
  if (Array.isArray(value)) return value.length ? value.map(plain).join(", ") : "none";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
};

// Keys with dots for what is nested: max_wait.high.
export function* flat(value, prefix = "") {
  for (const [key, inner] of Object.entries(value)) {
    const nested = inner !== null && typeof inner === "object" && !Array.isArray(inner) && Object.keys(inner).length;
    if (nested) yield* flat(inner, `${prefix}${key}.`);
    else yield [prefix + key, plain(inner)];
  }
}

function section(name, value) {
  const rows = [...flat(value)].map(([key, told]) => h("div", {}, h("dt", {}, key), h("dd", {}, told)));
  return h("details", {}, h("summary", {}, name), h("dl", { class: "keys" }, rows));
}

const isSection = ([, value]) => value !== null && typeof value === "object" && Object.keys(value).length > 0;

export function mount(store) {
  const place = body("config");
  store.on(["config"], () => {
    if (!store.config) return;
    const entries = Object.entries(store.config);
    const sections = entries.filter(isSection).map(([name, value]) => section(name, value));
    const single = Object.fromEntries(entries.filter((entry) => !isSection(entry) && entry[0] !== "source"));
    place.replaceChildren(
      h("p", { class: "note" }, `Read from ${store.config.source}. After a change: swapper-proxy reload, or start it again.`),
      h("div", { class: "sections" }, sections, section("others", single)));
  });
}
