// Puts the page together: one store, one connection, a view for each section.

import { get } from "./api.js";
import * as charts from "./charts.js";
import * as config from "./config.js";
import * as header from "./header.js";
import * as keys from "./keys.js";
import { Live } from "./live.js";
import * as memory from "./memory.js";
import * as models from "./models.js";
import * as problems from "./problems.js";
import * as prompt from "./prompt.js";
import * as queue from "./queue.js";
import { Store } from "./store.js";
import * as timeline from "./timeline.js";

const store = new Store();
const live = new Live(store);

async function configure() {
  try {
    store.setConfig(await get("config"));
    store.setSimulated("note" in (await get("health")));
  } catch {
    // the banner tells that the proxy is not there; `again` asks once more
  }
}

for (const view of [keys, header, memory, models, queue, timeline, charts, prompt, problems, config]) view.mount(store, live);
live.on("again", configure);
configure();
live.start();
