// Runs in a browser, on a page that the service itself serves; what came of it
// is sent to the service.
import { connect, official } from "./calls.js";

const lines = [];
const say = (line) => lines.push(line);

async function events() {
  const got = [];
  await new Promise((resolve) => {
    const source = new EventSource("/v1/users:watch?count=2&fail=9");
    source.onmessage = (event) => got.push(event.data);
    source.addEventListener("error", (event) => {
      got.push(`error ${event.data}`);
      source.close();
      resolve();
    });
  });
  say(`events ${got.join(" ")}`);
}

async function json() {
  const answer = await fetch("/v1/users/7");
  say(`fetch ${answer.status} ${await answer.text()}`);
}

try {
  await connect(location.origin, say);
  await official(location.origin, "text", say);
  await official(location.origin, "binary", say);
  await events();
  await json();
} catch (error) {
  say(`broke ${error} ${error.stack}`);
}
await fetch("/v1/everything", {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ stringField: `report\n${lines.join("\n")}` }),
});
