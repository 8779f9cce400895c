// The keys that the reader gave: one for the proxy's own addresses, one for those of Ollama. They stay in this tab, and
// are gone with it.

import { h, text } from "./dom.js";

const PURPOSES = {
  management: "to show and to change what the proxy does",
  clients: "to send prompts to models",
};

const place = (purpose) => `swapper-proxy.key.${purpose}`;
const stored = (purpose) => sessionStorage.getItem(place(purpose)) ?? "";
const purposeOf = (path) => (path.startsWith("api/") ? "clients" : "management");

const asking = new Map(); // by purpose: the answer to come
const declined = new Set();
let asked = Promise.resolve(); // one at a time
let changed = () => {};

// What to send to this address.
export function headers(path) {
  const key = stored(purposeOf(path));
  return key ? { Authorization: `Bearer ${key}` } : {};
}

// The address refused what was sent: whether there is another key to try. A reader who declines is not asked again.
export async function renewed(path, sent) {
  const purpose = purposeOf(path);
  if (headers(path).Authorization !== sent.Authorization) return true;
  if (declined.has(purpose)) return false;
  if (!asking.has(purpose)) {
    asked = asked.then(() => ask(purpose, Boolean(sent.Authorization)));
    asking.set(purpose, asked);
  }
  const given = await asking.get(purpose);
  asking.delete(purpose);
  return given;
}

async function ask(purpose, wrong) {
  const key = await answered(purpose, wrong);
  if (key) sessionStorage.setItem(place(purpose), key);
  else declined.add(purpose);
  changed();
  return Boolean(key);
}

// What the reader enters; empty if nothing.
function answered(purpose, wrong) {
  const input = h("input", { id: "key", type: "password", autocomplete: "off", spellcheck: "false", required: true });
  const form = h("form", { onsubmit: (event) => { event.preventDefault(); dialog.close(input.value.trim()); } },
    h("h2", { id: "key-title" }, "A key is needed"),
    h("p", { id: "key-purpose" }, `${wrong ? "The key was not accepted. " : ""}The proxy asks for a key ${PURPOSES[purpose]}. It is kept in this tab only.`),
    h("p", { class: "field" }, h("label", { for: "key" }, "Key"), input),
    h("p", { class: "buttons" },
      h("button", { type: "submit", class: "primary" }, "Use"),
      h("button", { type: "button", onclick: () => dialog.close("") }, "Cancel")));
  const dialog = h("dialog", { "aria-labelledby": "key-title", "aria-describedby": "key-purpose" }, form);
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
  });
}

// A button that forgets the keys, or asks for them after all.
export function mount() {
  const again = () => {
    for (const purpose of Object.keys(PURPOSES)) sessionStorage.removeItem(place(purpose));
    location.reload();
  };
  const button = h("button", { type: "button", hidden: true, onclick: again });
  document.querySelector(".top").append(button);
  changed = () => {
    const some = Object.keys(PURPOSES).some(stored);
    text(button, some ? "Forget key" : "Enter key");
    button.hidden = !some && !declined.size;
  };
  changed();
}
