// The state of the proxy in one line, and the banner: the connection is lost, or Ollama is away and why.

import { attribute, h, keyed, text } from "./dom.js";
import { count } from "./format.js";

const CONNECTIONS = {
  connecting: ["connecting", "quiet"],
  live: ["live", "good"],
  polling: ["every 2 s", "good"],
  lost: ["lost", "bad"],
  locked: ["locked", "warn"],
};

const TROUBLES = {
  lost: "Connection lost, trying again. What is shown is the last that was known.",
  locked: "The proxy asks for a key. Without one this page shows nothing.",
};

function ollama({ status, simulated }) {
  if (status.ollama !== "reachable") return { value: "no answer", tone: "bad" };
  return simulated ? { value: "simulated", tone: "warn" } : { value: "reachable", tone: "good" };
}

function facts(store) {
  const { status, connection } = store;
  const [word, tone] = CONNECTIONS[connection];
  const page = { name: "This page", value: word, tone };
  if (!status) return [page];
  const stale = connection === "lost";
  return [
    { name: "Proxy", value: stale ? "no answer" : status.status, tone: stale ? "bad" : status.status === "healthy" ? "good" : "warn" },
    { name: "Ollama", ...(stale ? { value: "not known", tone: "quiet" } : ollama(store)) },
    { name: "Mode", value: status.mode, tone: "" },
    { name: "Active", value: status.active_model ?? "none", tone: "", name_of: "model" },
    { name: "Waiting", value: count(status.waiting), tone: status.waiting ? "warn" : "" },
    { name: "In flight", value: count(status.in_flight), tone: "" },
    page,
  ];
}

const sentence = (reason) => (reason ? `${reason[0].toUpperCase()}${reason.slice(1)}.` : "");

export function mount(store) {
  const list = document.getElementById("facts");
  const banner = document.getElementById("banner");
  const create = () => h("div", {}, h("dt"), h("dd"));
  const update = (row, fact) => {
    text(row.firstChild, fact.name);
    text(row.lastChild, fact.value);
    attribute(row.lastChild, "class", fact.tone || null);
    attribute(row.lastChild, "title", fact.name_of ? fact.value : null);
  };
  store.on(["status", "connection"], () => {
    keyed(list, facts(store), (fact) => fact.name, create, update);
    const trouble = TROUBLES[store.connection] ?? sentence(store.status?.reason);
    text(banner, trouble);
    banner.classList.toggle("shown", trouble !== "");
    document.title = store.status?.waiting ? `(${store.status.waiting}) Swapper Proxy` : "Swapper Proxy";
  });
}
