// Works with several models at the base URL that is the one argument, and prints what came of it as JSON.
import { Ollama } from "ollama";

const ollama = new Ollama({ host: process.argv[2] });
const messages = [{ role: "user", content: "Why is the sky blue?" }];
const found = { chat: [], streams: [] };

const summary = (answer) => [answer.model, answer.done_reason, answer.eval_count];

for (const model of ["alpha", "beta", "alpha"]) {
  found.chat.push(summary(await ollama.chat({ model, messages })));
}

for (const model of ["beta", "alpha"]) {
  const parts = [];
  for await (const part of await ollama.generate({ model, prompt: "x", stream: true })) parts.push(part);
  found.streams.push([parts.length > 1, parts.filter((part) => part.done).length, summary(parts.at(-1))]);
}

found.partsBeforeTheAbort = 0;
const endless = await ollama.chat({ model: "alpha", messages, stream: true, options: { num_predict: 20000 } });
try {
  for await (const _ of endless) {
    found.partsBeforeTheAbort += 1;
    if (found.partsBeforeTheAbort === 3) endless.abort();
  }
} catch (error) {
  found.aborted = [error.name, error.message];
}

found.together = await Promise.all(
  ["alpha", "beta", "alpha", "beta"].map(async (model) => summary(await ollama.generate({ model, prompt: "x" }))),
);
const embedded = await ollama.embed({ model: "embedder", input: ["one", "two"] });
found.embedded = embedded.embeddings.map((vector) => vector.length);
found.running = (await ollama.ps()).models.map((model) => model.name);
found.listed = (await ollama.list()).models.map((model) => model.name).sort();
found.shown = (await ollama.show({ model: "alpha-kind" })).system;

console.log(JSON.stringify(found));
