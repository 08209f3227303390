// Many clients in one process: `node --experimental-websocket herd.mjs <token url> <clients>`.
// Says "open" when all are connected, and after each line on stdin what happened since the last one, as one line of JSON.
import { createInterface } from "node:readline";
import { connect } from "../../eclipse_ws/static/eclipse-chat.js";

const [tokenUrl, count] = process.argv.slice(2);
let attempts = []; // when a token was asked for
let opened = []; // when a client was connected again
let open = 0;
let waiting;

const busiest = (times) => {
  times.sort((a, b) => a - b);
  let most = 0;
  for (let from = 0, to = 0; to < times.length; to++) {
    while (times[to] - times[from] >= 1000) from++;
    most = Math.max(most, to - from + 1);
  }
  return most;
};

const whole = () => {
  if (open == +count && waiting) waiting();
};

for (let n = 0; n < +count; n++) {
  const chat = connect({
    chatId: `herd-${n >> 1}`,
    tokenUrl,
    storage: null,
    fetch: (...given) => (attempts.push(Date.now()), fetch(...given)),
  });
  let was = false;
  chat.on("state", ({ state }) => {
    if ((state == "open") == was) return;
    was = state == "open";
    open += was ? 1 : -1;
    if (was) opened.push(Date.now());
    whole();
  });
  chat.on("error", () => {});
}

// Answers once all that were cut off are back; `cut` is how many have to be.
const report = async (cut) => {
  await new Promise((done) => {
    waiting = () => opened.length >= cut && done();
    whole();
  });
  waiting = undefined;
  const began = Math.min(...attempts);
  const line = { back: opened.length, attempts: attempts.length, busiest: busiest(opened), took: (Math.max(...opened) - began) / 1000, last: Math.max(...opened) };
  attempts = [];
  opened = [];
  console.log(JSON.stringify(line));
};

await report(+count);
for await (const line of createInterface({ input: process.stdin })) {
  if (line == "end") process.exit();
  await report(+line);
}
