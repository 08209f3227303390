// A closed client leaves nothing: no timer, no listener, and no request.
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { FakeSocket, reset, start, tick } from "./fake.mjs";

let listeners;
let timers;
const real = {};

beforeEach(() => {
  reset();
  listeners = new Set();
  timers = new Set();
  globalThis.addEventListener = (type, listener) => listeners.add(type + listener);
  globalThis.removeEventListener = (type, listener) => listeners.delete(type + listener);
  for (const name of ["setTimeout", "setInterval", "clearTimeout", "clearInterval"]) real[name] = globalThis[name];
  const begin = (name) => (run, ms, ...given) => {
    const id = real[name](() => { name == "setTimeout" && timers.delete(id); run(...given); }, ms);
    timers.add(id);
    return id;
  };
  const end = (name) => (id) => { timers.delete(id); real[name](id); };
  globalThis.setTimeout = begin("setTimeout");
  globalThis.setInterval = begin("setInterval");
  globalThis.clearTimeout = end("clearTimeout");
  globalThis.clearInterval = end("clearInterval");
});
afterEach(() => {
  Object.assign(globalThis, real);
  reset();
  delete globalThis.addEventListener;
  delete globalThis.removeEventListener;
});

const states = {
  "while the token is fetched": [{ token: () => new Promise(() => {}) }, () => {}],
  "while it waits for a token": [{ token: () => Promise.reject(new Error("no")) }, () => {}],
  "before it is greeted": [{}, () => {}],
  "while it is open": [{}, () => FakeSocket.last.greet()],
  "while somebody types": [{}, (chat) => { FakeSocket.last.greet(); chat.typing(); }],
  "while an answer to a ping is due": [{}, async () => { FakeSocket.last.greet(); await tick(20_000); }],
  "while a message is in progress": [{}, (chat) => { FakeSocket.last.greet(); chat.send("hello"); }],
  "while a refused message waits": [{}, (chat) => {
    FakeSocket.last.greet();
    chat.send("hello");
    FakeSocket.last.say({ type: "error", error: "busy", code: "busy", retryable: true, clientMessageId: chat.pending[0].clientMessageId });
  }],
  "after the link was lost": [{}, () => { FakeSocket.last.greet(); FakeSocket.last.end(1006); }],
};

for (const [name, [options, act]] of Object.entries(states))
  test(`a client that is closed ${name} leaves no timer, listener or socket`, async () => {
    const { chat } = await start(options);
    await act(chat);
    assert.ok(listeners.size);
    chat.close();
    chat.typing();
    await tick(1_000); // the pace of messages is counted for a second
    assert.deepEqual([timers.size, listeners.size], [0, 0]);
    assert.ok(FakeSocket.all.every(({ closed, onmessage, onclose }) => closed || !(onmessage || onclose)));
  });

test("close aborts the request for a token", async () => {
  let asked;
  const { chat, all } = await start({ token: ({ signal }) => new Promise(() => (asked = signal)) });
  assert.equal(asked.aborted, false);
  chat.close();
  assert.equal(asked.aborted, true);
  await tick(100);
  assert.deepEqual(all("error"), []);
});

test("a lost connection aborts the request for the next token", async () => {
  const asked = [];
  const token = async ({ signal }) => (asked.push(signal) == 1 ? { token: "t", wsUrl: "ws://server/ws" } : new Promise(() => {}));
  await start({ token });
  const expiresAt = new Date(Date.now() + 60_000).toISOString();
  FakeSocket.last.greet({ expiresAt });
  for (let beat = 0; asked.length < 2 && beat < 5; beat++) {
    await tick(20_000);
    FakeSocket.last.say({ type: "pong" });
  }
  assert.deepEqual(asked.map(({ aborted }) => aborted).slice(1), [false]);
  FakeSocket.last.end(1006);
  assert.equal(asked[1].aborted, true);
});

test("a browser without AbortSignal.any connects as well", async () => {
  const { any } = AbortSignal;
  AbortSignal.any = undefined;
  try {
    const { chat } = await start();
    FakeSocket.last.greet();
    assert.equal(chat.state, "open");
  } finally {
    AbortSignal.any = any;
  }
});
