// What is refused at the base URL that is the one argument, as JSON.
import { Ollama } from "ollama";

const ollama = new Ollama({ host: process.argv[2] });
const messages = [{ role: "user", content: "Why is the sky blue?" }];

async function refusal(promise) {
  try {
    await promise;
    return null;
  } catch (error) {
    return [error.name, error.status_code, error.message];
  }
}

console.log(
  JSON.stringify({
    unknown: await refusal(ollama.chat({ model: "nope", messages })),
    unknownStream: await refusal(ollama.generate({ model: "nope", prompt: "x", stream: true })),
    unsupported: await refusal(ollama.chat({ model: "embedder", messages })),
    unshown: await refusal(ollama.show({ model: "nope" })),
  }),
);
