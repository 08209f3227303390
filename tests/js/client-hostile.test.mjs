// Hostile pages, applications and options: the client has to survive them.
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { FakeSocket, FakeStorage, leave, message, reset, start, tick } from "./fake.mjs";

beforeEach(reset);

test("a client that is closed by a listener of its outbox while it connects opens no socket", async () => {
  const { chat } = await start({ token: () => new Promise((done) => setTimeout(done, 1_000, { token: "t", wsUrl: "ws://server", userId: "u1" })) });
  chat.on("outbox", (pending) => pending.length || chat.close());
  await tick(2_000);
  assert.equal(chat.state, "closed");
  assert.deepEqual(FakeSocket.all.filter(({ closed }) => !closed), []);
});

test("a client that is closed by a listener while it begins to connect again asks for no socket either", async () => {
  const { chat } = await start();
  FakeSocket.last.greet();
  FakeSocket.last.end(1006);
  chat.on("outbox", () => chat.close());
  await tick(25_000);
  assert.deepEqual([chat.state, FakeSocket.all.length], ["closed", 1]);
});

test("a message that is sent by a listener while the client begins to connect opens one socket", async () => {
  let asked = 0;
  const { chat } = await start({ token: async () => ({ token: `t${++asked}`, wsUrl: "ws://server", userId: "u1" }) });
  FakeSocket.last.greet();
  const { random } = Math;
  Math.random = () => 0.9;
  FakeSocket.last.end(1012);
  Math.random = random;
  await tick(1_100);
  let isSent = false;
  chat.on("outbox", () => isSent || ((isSent = true), chat.send("x")));
  while (!isSent) await tick(100);
  await tick(2_000);
  assert.equal(FakeSocket.all.slice(1).filter(({ closed }) => !closed).length, 1);
});

test("a connection that a listener closes as it opens emits no further events", async () => {
  const { chat, names } = await start();
  chat.on("state", ({ state }) => state == "open" && chat.close());
  FakeSocket.last.greet();
  assert.deepEqual(names().filter((name) => /connected|reload/.test(name)), []);
});

test("an option that is undefined has its default", async () => {
  const none = { role: undefined, limit: undefined, spread: undefined, url: undefined, fetch: undefined, subprotocol: undefined, tokenUrl: undefined };
  const { chat } = await start(none);
  FakeSocket.last.greet();
  chat.send("x");
  assert.equal(FakeSocket.last.messages[0].role, "USER");
  for (let i = 1; i < 1_000; i++) chat.send("x");
  assert.throws(() => chat.send("x"), RangeError);
  FakeSocket.last.end(1012);
  assert.equal(chat.state, "waiting");
});

test("a token function that throws synchronously is called again, and nothing is left unhandled", async () => {
  const lost = [];
  const hear = (error) => lost.push(error);
  process.on("unhandledRejection", hear);
  const timeout = AbortSignal.timeout;
  const aborts = [];
  AbortSignal.timeout = () => {
    const controller = new AbortController();
    aborts.push(controller);
    return controller.signal;
  };
  try {
    const { all } = await start({ token: () => { throw new Error("no"); } });
    assert.deepEqual(all("error").map(({ code }) => code), ["token_failed"]);
    for (const controller of aborts) controller.abort();
    await tick(100);
    await new Promise((done) => setImmediate(done));
    assert.deepEqual(lost, []);
  } finally {
    AbortSignal.timeout = timeout;
    process.off("unhandledRejection", hear);
  }
});

test("a token function that returns nothing, or rejects with nothing, is called again", async () => {
  for (const token of [() => undefined, () => Promise.reject(), () => null, () => "t"]) {
    let asked = 0;
    await start({ token: () => (asked++, token()) });
    await tick(3_000);
    assert.ok(asked > 1, String(token));
  }
});

for (const wait of ["-60", "-1e9", "soon"]) {
  test(`a Retry-After of ${wait} does not make the client storm the application`, async () => {
    let asked = 0;
    const answer = { ok: false, status: 503, headers: new Map([["retry-after", wait]]) };
    await start({ token: undefined, tokenUrl: "http://app/token", fetch: async () => (asked++, answer) });
    await tick(60_000);
    assert.ok(asked > 2 && asked < 30, `${asked} times`);
  });
}

test("clients without a chat's name keep their messages to themselves", async () => {
  const storage = new FakeStorage();
  const one = await start({ storage, chatId: undefined });
  one.chat.send("for the first chat");
  one.chat.close();
  const two = await start({ storage, chatId: undefined });
  FakeSocket.last.greet();
  await tick(21_000);
  assert.deepEqual([two.chat.pending, FakeSocket.last.messages], [[], []]);
});

test("clients with only a token URL find what they have stored for it", async () => {
  const storage = new FakeStorage();
  const options = { storage, chatId: undefined, token: undefined, fetch: () => new Promise(() => {}) };
  const { chat } = await start({ ...options, tokenUrl: "http://app/token?chatId=1" });
  chat.send("x");
  leave();
  assert.equal((await start({ ...options, tokenUrl: new URL("http://app/token?chatId=1") })).chat.pending.length, 1);
  assert.equal((await start({ ...options, tokenUrl: "http://app/token?chatId=2" })).chat.pending.length, 0);
});

test("a history with holes, numbers or nothing at all is accepted", async () => {
  const { chat, all } = await start();
  FakeSocket.last.greet();
  const clientMessageId = chat.send("7");
  FakeSocket.last.say({ type: "error", error: "?", code: "outcome_unknown", clientMessageId });
  for (const history of [undefined, null, [], [null, undefined, {}, { id: null, content: "7" }, { content: "7" }]]) chat.history(history);
  assert.equal(all("sent").length, 0);
  chat.history([null, { id: 5, content: 7, role: null, sender: null }, , undefined]);
  assert.deepEqual(all("sent").map(({ id }) => id), ["5"]);
});

test("a text that is not a string is refused", async () => {
  const { chat } = await start();
  for (const text of [undefined, null, "", " "]) assert.throws(() => chat.send(text), TypeError);
});

test("invalid stored data is ignored", async () => {
  const item = { clientMessageId: "a", content: "x", role: "USER", status: "waiting" };
  for (const stored of ["5", "null", "[]", '"out"', "{", '{"out":5}', '{"out":{"a":1},"mine":["u"]}', '{"out":"abc","saved":7}', JSON.stringify({ out: [1, "a", [], item, { content: { a: 1 } }], mine: null, saved: 7, senders: {} })]) {
    reset();
    const storage = new FakeStorage();
    storage.setItem("eclipse-chat:c1", stored);
    const { chat, all } = await start({ storage });
    FakeSocket.last.greet();
    await tick(200);
    if (stored.includes("waiting")) FakeSocket.last.ack(), await tick(200);
    const id = chat.send("y");
    await tick(200);
    FakeSocket.last.ack();
    assert.ok(all("sent").some(({ clientMessageId }) => clientMessageId == id), stored);
  }
});

test("a clock that is set back does not make a message younger than it is", async () => {
  const { chat, all } = await start();
  FakeSocket.last.greet();
  chat.send("x");
  FakeSocket.last.end(1006);
  const { now } = Date;
  Date.now = () => now() - 3_600_000;
  try {
    await tick(600);
    FakeSocket.last.greet();
    assert.deepEqual(all("failed").map(({ code }) => code), ["outcome_unknown"]);
  } finally {
    Date.now = now;
  }
});

test("a late error for a failed message does not send it again", async () => {
  const { chat } = await start();
  FakeSocket.last.greet();
  const id = chat.send("x");
  FakeSocket.last.say({ type: "error", error: "No", code: "forbidden", retryable: false, clientMessageId: id });
  FakeSocket.last.say({ type: "error", error: "Busy", code: "busy", retryable: true, clientMessageId: id });
  await tick(10_000);
  assert.equal(chat.pending[0].status, "failed");
  assert.equal(FakeSocket.last.messages.length, 1);
});

test("an event with an expiry of its own does not change the session's", async () => {
  let asked = 0;
  await start({ token: async () => (asked++, { token: "t", wsUrl: "ws://server", userId: "u1" }) });
  FakeSocket.last.greet();
  FakeSocket.last.say({ type: "offer", expiresAt: "2001-01-01T00:00:00.000Z", timestamp: "2026-01-01T00:00:00.000Z" });
  for (let i = 0; i < 6; i++) {
    await tick(10_000);
    FakeSocket.last.say({ type: "pong" });
  }
  assert.equal(asked, 1);
});

