// The storage outlives pages, and several clients may use it: it counts, not a page's memory.
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { FakeSocket, FakeStorage, leave, message, reset, start, tick } from "./fake.mjs";

let listeners;

beforeEach(() => {
  reset();
  listeners = {};
  globalThis.addEventListener = (type, listener) => (listeners[type] ??= new Set()).add(listener);
  globalThis.removeEventListener = (type, listener) => listeners[type]?.delete(listener);
});
afterEach(() => {
  reset();
  delete globalThis.addEventListener;
  delete globalThis.removeEventListener;
});

/** The page goes into the back/forward cache, with all that it remembers; answers what brings it back. */
const leavePage = () => {
  const left = listeners;
  const registry = globalThis[Symbol.for("eclipse-chat")];
  for (const listener of left.pagehide ?? []) listener({ type: "pagehide", persisted: true });
  listeners = {};
  leave();
  return () => {
    listeners = left;
    globalThis[Symbol.for("eclipse-chat")] = registry;
    for (const listener of left.pageshow ?? []) listener({ type: "pageshow", persisted: true });
  };
};

test("a message written while connecting is sent by the next page, and not again by the restored one", async () => {
  const storage = new FakeStorage();
  const first = await start({ storage });
  first.chat.send("once");
  const goBack = leavePage();
  const second = await start({ storage });
  FakeSocket.last.greet();
  FakeSocket.last.ack(-1, "m1");
  assert.deepEqual(second.chat.pending, []);
  leavePage();
  goBack();
  await tick(100);
  assert.deepEqual(first.chat.pending, []);
  FakeSocket.last.greet();
  await tick(1_000);
  assert.deepEqual(FakeSocket.last.messages, []);
  assert.ok(first.chat.isMine({ id: "m1", sender: null }), "it knows what the other page has learned");
});

test("messages queued by the next page are not lost when the old one is restored and writes", async () => {
  const storage = new FakeStorage();
  const first = await start({ storage });
  const goBack = leavePage();
  const second = await start({ storage });
  second.chat.send("theirs");
  leavePage();
  goBack();
  first.chat.send("mine");
  assert.deepEqual(first.chat.pending.map(({ content }) => content), ["theirs", "mine"]);
  assert.deepEqual(JSON.parse(storage.getItem("eclipse-chat:c1")).out.map(({ content }) => content), ["theirs", "mine"]);
});

test("a cached page sends nothing and opens nothing, and reconnects when it is restored", async () => {
  const { chat } = await start();
  FakeSocket.last.greet();
  const goBack = leavePage();
  assert.ok(FakeSocket.last.closed);
  assert.equal(chat.state, "waiting");
  await tick(60_000);
  assert.equal(FakeSocket.all.length, 1);
  goBack();
  await tick(10);
  assert.equal(FakeSocket.all.length, 2);
});

test("two clients of one chat on one page keep each other's messages, and send each its own, once", async () => {
  const storage = new FakeStorage();
  const one = await start({ storage });
  const two = await start({ storage });
  const [a, b] = FakeSocket.all;
  const first = one.chat.send("first");
  const second = two.chat.send("second");
  one.chat.send("third");
  assert.deepEqual(JSON.parse(storage.getItem("eclipse-chat:c1")).out.map(({ content }) => content), ["first", "second", "third"]);
  a.greet();
  b.greet();
  assert.deepEqual([a.messages, b.messages].map((sent) => sent.map(({ content }) => content)), [["first"], ["second"]]);
  b.ack(-1, "m2");
  a.ack(-1, "m1");
  a.ack(-1, "m3");
  assert.deepEqual([a.messages.length, b.messages.length], [2, 1]);
  assert.deepEqual([one.all("sent").map((s) => s.clientMessageId)[0], two.all("sent").map((s) => s.clientMessageId)], [first, [second]]);
  assert.deepEqual(JSON.parse(storage.getItem("eclipse-chat:c1")).out, []);
});

test("two clients of an old server save nothing twice", async () => {
  const storage = new FakeStorage();
  const one = await start({ storage });
  const two = await start({ storage });
  const [a, b] = FakeSocket.all;
  a.greetLikeToday();
  one.chat.send("x");
  b.greetLikeToday();
  two.chat.send("y");
  await tick(25_000);
  assert.deepEqual([a.messages.length, b.messages.length, two.all("failed")], [1, 1, []]);
});

test("a component that is mounted, unmounted and mounted again sends what it has once", async () => {
  const storage = new FakeStorage();
  const one = await start({ storage });
  one.chat.send("x");
  one.chat.close();
  const two = await start({ storage });
  FakeSocket.last.greet();
  assert.deepEqual(FakeSocket.last.messages.map(({ content }) => content), ["x"]);
  FakeSocket.last.ack();
  await tick(60_000);
  assert.deepEqual([FakeSocket.all.flatMap((socket) => socket.messages).length, two.chat.pending], [1, []]);
});

test("messages left by a closed client are sent by another one of the same chat", async () => {
  const storage = new FakeStorage();
  const one = await start({ storage });
  one.chat.send("left");
  await start({ storage });
  FakeSocket.last.greet();
  assert.deepEqual(FakeSocket.last.messages, []);
  one.chat.close();
  await tick(20_100);
  assert.deepEqual(FakeSocket.last.messages.map(({ content }) => content), ["left"]);
});

test("a duplicated tab, which begins with a copy, sends under the same names", async () => {
  const storage = new FakeStorage();
  const { chat } = await start({ storage });
  const id = chat.send("x");
  FakeSocket.last.greet();
  leave();
  const copy = new FakeStorage();
  copy.map = new Map(storage.map);
  await start({ storage: copy });
  FakeSocket.last.greet();
  assert.deepEqual(FakeSocket.last.messages.map(({ clientMessageId, resend }) => [clientMessageId, resend]), [[id, true]]);
  FakeSocket.last.say(message("m1", "x"));
});

test("a storage that is emptied loses nothing that waits", async () => {
  const storage = new FakeStorage();
  const { chat } = await start({ storage });
  chat.send("x");
  storage.map.clear();
  FakeSocket.last.greet();
  assert.deepEqual(FakeSocket.last.messages.map(({ content }) => content), ["x"]);
});

test("importing the client touches no page: it may be rendered on a server", async () => {
  const names = ["window", "document", "sessionStorage", "localStorage", "location", "WebSocket"];
  const before = names.map((name) => Object.getOwnPropertyDescriptor(globalThis, name));
  const touched = [];
  for (const name of names) Object.defineProperty(globalThis, name, { configurable: true, get: () => void touched.push(name) });
  try {
    await import("../../eclipse_ws/static/eclipse-chat.js?rendered-on-a-server");
    assert.deepEqual(touched, []);
  } finally {
    names.forEach((name, i) => (before[i] ? Object.defineProperty(globalThis, name, before[i]) : delete globalThis[name]));
  }
});
