import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { connect } from "../../eclipse_ws/static/eclipse-chat.js";
import { FakeSocket, FakeStorage, leave, message, reset, start, tick } from "./fake.mjs";

beforeEach(reset);

// -- connecting -------------------------------------------------------------------------------

test("the token URL is requested for the chat, and the socket opened with its token", async () => {
  let asked;
  const fetch = async (url) => ((asked = url), { ok: true, json: async () => ({ token: "a b", wsUrl: "https://server/ws?x=1", userId: "u1" }) });
  const { chat, all } = await start({ token: undefined, tokenUrl: "https://app/api/ws/token?agent=7", fetch });
  assert.equal(asked.href, "https://app/api/ws/token?agent=7&chatId=c1");
  assert.equal(FakeSocket.last.url.href, "wss://server/ws?x=1&token=a+b");
  assert.equal(chat.state, "connecting");
  FakeSocket.last.greet();
  assert.equal(chat.state, "open");
  assert.equal(chat.userId, "u1");
  assert.equal(chat.sessionId, "s1");
  assert.deepEqual(all("reload"), [{ reason: "connected" }]);
});

test("the token goes into the subprotocol if that is configured, and not into the address", async () => {
  await start({ subprotocol: true });
  assert.deepEqual(FakeSocket.last.protocols, ["eclipse.v1", "bearer.t1"]);
  assert.equal(FakeSocket.last.url.search, "");
});

test("connect names a missing option", () => {
  assert.throws(() => connect({}), /tokenUrl or token/);
  assert.throws(() => connect({ tokenUrl: "/t", WebSocket: null }), /No WebSocket here/);
});

test("a token URL that fails, or answers HTML or nothing useful, is requested again and again", async () => {
  const answers = [
    () => { throw new TypeError("network"); },
    () => ({ ok: false, status: 500, headers: new Headers() }),
    () => ({ ok: true, json: async () => JSON.parse("<!doctype html>") }),
    () => ({ ok: true, json: async () => ({}) }),
    () => ({ ok: true, json: async () => null }),
    () => ({ ok: true, json: async () => ({ token: "t", wsUrl: "ws://server" }) }),
  ];
  const { chat, all } = await start({ token: undefined, tokenUrl: "http://app/t", fetch: async () => answers.shift()() });
  while (!FakeSocket.all.length) await tick(100);
  assert.equal(answers.length, 0);
  assert.equal(all("error").length, 5);
  assert.ok(all("error").every((e) => e.code == "token_failed" && e.retryable));
  FakeSocket.last.greet();
  assert.equal(chat.state, "open");
});

test("a token URL that hangs is given up after ten seconds, and requested again", async () => {
  const real = AbortSignal.timeout;
  AbortSignal.timeout = (ms) => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(new Error("late")), ms);
    return controller.signal;
  };
  try {
    let asked = 0;
    const { all } = await start({ token: () => (asked++, new Promise(() => {})) });
    await tick(10_100);
    assert.equal(all("error")[0].error, "No token in 10 s");
    await tick(10_100);
    assert.equal(asked, 2);
  } finally {
    AbortSignal.timeout = real;
  }
});

test("a Retry-After of the token URL is obeyed, and nothing hurries it", async () => {
  let asked = 0;
  const fetch = async () => (asked++, { ok: false, status: 429, headers: new Headers({ "retry-after": "30" }) });
  const { chat } = await start({ token: undefined, tokenUrl: "http://app/t", fetch });
  await tick(2_000);
  chat.send("now!");
  await tick(27_000);
  assert.equal(asked, 1);
  await tick(2_000);
  assert.equal(asked, 2);
});

test("a huge Retry-After is limited to ten minutes, and never ignored", async () => {
  let asked = 0;
  const fetch = async () => (asked++, { ok: false, status: 503, headers: new Headers({ "retry-after": "99999999" }) });
  const { all } = await start({ token: undefined, tokenUrl: "http://app/t", fetch });
  await tick(10_000);
  assert.equal(asked, 1);
  const { retryIn } = all("state").at(-1);
  assert.ok(retryIn >= 600_000 && retryIn < 621_000, `${retryIn} ms`);
});

test("an address that the browser refuses is an error, not the end", async () => {
  FakeSocket.refuse = "insecure";
  const { chat, all } = await start();
  assert.equal(all("error")[0].error, "insecure");
  FakeSocket.refuse = undefined;
  await tick(1_000);
  FakeSocket.last.greet();
  assert.equal(chat.state, "open");
});

test("a socket that never greets is given up", async () => {
  await start();
  await tick(30_100);
  assert.ok(FakeSocket.all.length > 1);
  assert.ok(FakeSocket.all[0].closed);
});

test("waits are random, no longer than the outage so far, at most twenty seconds, and never stop", async () => {
  const { chat, all } = await start({ token: async () => { throw new Error("down"); } });
  const began = performance.now();
  chat.on("state", ({ state, retryIn }) => {
    if (state == "waiting") assert.ok(retryIn <= Math.min(20_000, Math.max(500, performance.now() - began)));
  });
  await tick(600_000);
  const waits = all("state").filter(({ state }) => state == "waiting").map(({ retryIn }) => retryIn);
  assert.ok(waits.length > 30 && waits.length < 150, `${waits.length} attempts in ten minutes`);
  assert.ok(Math.max(...waits) > 10_000);
  assert.ok(new Set(waits).size == waits.length);
});

test("close is permanent", async () => {
  const { chat, all } = await start();
  FakeSocket.last.greet();
  chat.close();
  chat.close();
  assert.ok(FakeSocket.last.closed);
  await tick(60_000);
  assert.equal(FakeSocket.all.length, 1);
  assert.equal(all("state").filter(({ state }) => state == "closed").length, 1);
});

test("a token that comes after close opens nothing", async () => {
  let give;
  const { chat } = await start({ token: () => new Promise((done) => (give = done)) });
  chat.close();
  give({ token: "t", wsUrl: "ws://server" });
  await tick(100);
  assert.equal(FakeSocket.all.length, 0);
});

// -- close codes ------------------------------------------------------------------------------

test("4003 ends reconnecting", async () => {
  const { chat, all } = await start();
  FakeSocket.last.greet();
  FakeSocket.last.end(4003, "bye");
  await tick(60_000);
  assert.equal(chat.state, "closed");
  assert.deepEqual(all("state").at(-1), { state: "closed", code: 4003, reason: "bye" });
  assert.equal(FakeSocket.all.length, 1);
});

for (const code of [1000, 1001, 1006, 4000, 4001, 4002, 4008]) {
  test(`after ${code} it reconnects soon, with a fresh token and its cursor`, async () => {
    await start();
    FakeSocket.last.greet();
    FakeSocket.last.say(message("m1", "x", "u2", { cursor: "e.1" }));
    FakeSocket.last.end(code);
    await tick(600);
    assert.equal(FakeSocket.all.length, 2);
    assert.equal(FakeSocket.last.url.searchParams.get("token"), "t2");
    assert.equal(FakeSocket.last.url.searchParams.get("cursor"), "e.1");
  });
}

test("after 4009 it waits for at least five seconds, even if somebody writes", async () => {
  const { chat } = await start();
  FakeSocket.last.greet();
  await tick(2_000);
  FakeSocket.last.end(4009);
  chat.send("x");
  await tick(4_900);
  assert.equal(FakeSocket.all.length, 1);
  await tick(2_200);
  assert.equal(FakeSocket.all.length, 2);
});

test("after 1012 it reconnects at a random moment within twenty seconds, at once if somebody writes", async () => {
  const waits = [];
  for (let i = 0; i < 50; i++) {
    const { all } = await start();
    FakeSocket.last.greet();
    FakeSocket.last.end(1012);
    waits.push(all("state").at(-1).retryIn);
  }
  assert.ok(Math.max(...waits) <= 20_000 && Math.max(...waits) > 12_000 && Math.min(...waits) < 8_000);
  reset();
  const { chat } = await start({ spread: 1e6 });
  FakeSocket.last.greet();
  await tick(2_000);
  FakeSocket.last.end(1012);
  chat.send("x");
  await tick();
  assert.equal(FakeSocket.all.length, 2);
});

test("a server that greets and hangs up is not stormed", async () => {
  await start();
  for (let second = 0; second < 60; second++) {
    if (!FakeSocket.last.readyState) {
      FakeSocket.last.greet();
      FakeSocket.last.end(4000);
    }
    await tick(1_000);
  }
  assert.ok(FakeSocket.all.length < 50, `${FakeSocket.all.length} attempts in a minute`);
});

test("1009 fails the message that was too long, and the next one goes out", async () => {
  const { chat, all } = await start();
  FakeSocket.last.greet();
  const id = chat.send("too long");
  chat.send("short");
  FakeSocket.last.end(1009);
  assert.equal(all("failed")[0].clientMessageId, id);
  assert.equal(all("failed")[0].code, "content_too_long");
  await tick(600);
  FakeSocket.last.greet();
  assert.deepEqual(FakeSocket.last.messages.map((m) => m.content), ["short"]);
});

// -- sending ----------------------------------------------------------------------------------

test("messages wait for the connection and go out one at a time, in order", async () => {
  const { chat, all } = await start({ role: "AGENT" });
  const ids = [chat.send("one"), chat.send("two", "USER")];
  FakeSocket.last.greet();
  assert.deepEqual(FakeSocket.last.messages, [{ type: "message", content: "one", role: "AGENT", clientMessageId: ids[0] }]);
  FakeSocket.last.ack(-1, "m1");
  assert.equal(FakeSocket.last.messages[1].content, "two");
  FakeSocket.last.ack(-1, "m2");
  assert.deepEqual(all("sent").map((s) => [s.clientMessageId, s.id]), [[ids[0], "m1"], [ids[1], "m2"]]);
  assert.deepEqual(chat.pending, []);
});

test("an unacknowledged message is sent again under its key on the next connection", async () => {
  const { chat, all } = await start();
  FakeSocket.last.greet();
  const id = chat.send("x");
  FakeSocket.last.end(1006);
  await tick(600);
  FakeSocket.last.greet({ recovered: true });
  assert.equal(FakeSocket.last.messages[0].clientMessageId, id);
  FakeSocket.last.ack();
  assert.equal(all("sent").length, 1);
});

test("a resent message says so, and is retried until the server knows its outcome", async () => {
  const { chat, all } = await start();
  FakeSocket.last.greet();
  const id = chat.send("hello");
  assert.equal(FakeSocket.last.messages[0].resend, undefined);
  FakeSocket.last.end(1006);
  await tick(600);
  FakeSocket.last.greet();
  assert.deepEqual([FakeSocket.last.messages[0].clientMessageId, FakeSocket.last.messages[0].resend], [id, true]);
  FakeSocket.last.say({ type: "error", error: "?", code: "outcome_unknown", retryable: true, retryAfter: 2, clientMessageId: id });
  assert.deepEqual([all("failed"), chat.pending[0].status], [[], "waiting"]);
  await tick(3_000);
  assert.deepEqual([FakeSocket.last.messages[1].clientMessageId, FakeSocket.last.messages[1].resend], [id, true]);
  FakeSocket.last.say({ type: "error", error: "?", code: "outcome_unknown", retryable: false, clientMessageId: id });
  assert.equal(all("failed")[0].code, "outcome_unknown");
});

test("an ack's cursor is never resumed from: events before it may be in progress", async () => {
  const { chat } = await start();
  FakeSocket.last.greet({ cursor: "e.4" });
  chat.send("x");
  FakeSocket.last.ack();
  FakeSocket.last.end(1006);
  await tick(600);
  assert.equal(FakeSocket.last.url.searchParams.get("cursor"), "e.4");
});

test("after a temporary error a message is sent again after retryAfter, under the same key", async () => {
  const { chat, all } = await start();
  FakeSocket.last.greet();
  const id = chat.send("x");
  FakeSocket.last.say({ type: "error", error: "Slow down", code: "rate_limited", retryable: true, retryAfter: 3, clientMessageId: id });
  await tick(2_900);
  assert.equal(FakeSocket.last.messages.length, 1);
  await tick(1_000);
  assert.deepEqual(FakeSocket.last.messages.map((m) => m.clientMessageId), [id, id]);
  assert.equal(all("failed").length, 0);
});

test("only a message without an answer is marked as resent: an error that says that nothing was saved is an answer", async () => {
  const { chat } = await start();
  FakeSocket.last.greet();
  const id = chat.send("x");
  const slow = { type: "error", error: "Slow down", code: "rate_limited", retryable: true, retryAfter: 1, clientMessageId: id };
  FakeSocket.last.say(slow);
  await tick(1_600);
  assert.equal(FakeSocket.last.messages[1].resend, undefined);
  FakeSocket.last.end(1006);
  await tick(5_000);
  FakeSocket.last.greet();
  assert.equal(FakeSocket.last.messages[0].resend, true);
  // It says nothing about the one before it, which got no answer.
  FakeSocket.last.say(slow);
  await tick(1_600);
  assert.equal(FakeSocket.last.messages[1].resend, true);
});

test("a retryable error without a key applies to the message in progress", async () => {
  const { chat } = await start();
  FakeSocket.last.greet();
  chat.send("x");
  FakeSocket.last.say({ type: "error", error: "Slow down", code: "rate_limited", retryable: true, retryAfter: 1 });
  await tick(1_600);
  assert.equal(FakeSocket.last.messages.length, 2);
});

test("a final error fails only its message, and retry sends it under the same key", async () => {
  const { chat, all } = await start();
  FakeSocket.last.greet();
  const id = chat.send("x");
  chat.send("y");
  FakeSocket.last.say({ type: "error", error: "No", code: "forbidden", retryable: false, clientMessageId: id });
  assert.equal(all("failed")[0].code, "forbidden");
  assert.equal(FakeSocket.last.messages.at(-1).content, "y");
  FakeSocket.last.ack();
  assert.equal(chat.retry(id), id);
  assert.equal(FakeSocket.last.messages.at(-1).clientMessageId, id);
  assert.equal(chat.retry("nobody"), "");
});

test("an error that belongs to no message is reported to the page", async () => {
  const { chat, all } = await start();
  FakeSocket.last.greet();
  chat.send("x");
  FakeSocket.last.say({ type: "error", error: "Unknown message type", code: "unknown_type", retryable: false });
  FakeSocket.last.say({ type: "error", error: "Failed to fetch agent info" });
  assert.equal(all("error").length, 2);
  assert.equal(chat.pending[0].status, "sending");
});

test("a message of unknown outcome is never sent again by itself; on purpose it gets a new key", async () => {
  const { chat, all } = await start();
  FakeSocket.last.greet();
  const id = chat.send("x");
  FakeSocket.last.say({ type: "error", error: "?", code: "outcome_unknown", retryable: true, clientMessageId: id });
  assert.equal(all("failed")[0].code, "outcome_unknown");
  assert.deepEqual(all("reload").at(-1), { reason: "outcome_unknown" });
  FakeSocket.last.end(1006);
  await tick(600);
  FakeSocket.last.greet();
  assert.equal(FakeSocket.last.messages.length, 0);
  const again = chat.retry(id);
  assert.notEqual(again, id);
  assert.equal(FakeSocket.last.messages[0].clientMessageId, again);
});

test("the history settles an unknown outcome, but an older message with the same text does not", async () => {
  const { chat, all } = await start();
  FakeSocket.last.greet();
  const saved = (id, content, user = "u1") => ({ id, content, sender: { id: user } });
  chat.history([saved("m1", "ok"), saved("m2", "hello", "u2")]);
  const id = chat.send("ok");
  FakeSocket.last.say({ type: "error", error: "?", code: "outcome_unknown", clientMessageId: id });
  chat.history([saved("m1", "ok"), saved("m2", "hello", "u2")]);
  assert.equal(all("sent").length, 0);
  chat.history([saved("m3", "ok")]); // does not reach back to what was known: proves nothing
  assert.equal(all("sent").length, 0);
  chat.history([saved("m1", "ok"), saved("m2", "hello", "u2"), saved("x", "ok", "u2"), saved("m3", "ok")]);
  assert.deepEqual(all("sent"), [{ clientMessageId: id, id: "m3", delivery: undefined }]);
  assert.deepEqual(chat.pending, []);
});

test("after four minutes the server may have forgotten the key: the outcome is unknown", async () => {
  let down = false;
  const token = async () => {
    if (down) throw new Error("down");
    return { token: "t", wsUrl: "ws://server", userId: "u1" };
  };
  const { chat, all } = await start({ token });
  FakeSocket.last.greet();
  const id = chat.send("x");
  FakeSocket.last.end(1006);
  down = true;
  await tick(241_000);
  down = false;
  while (FakeSocket.all.length < 2) await tick(500);
  FakeSocket.last.greet();
  assert.equal(all("failed")[0].clientMessageId, id);
  assert.equal(all("failed")[0].code, "outcome_unknown");
  assert.equal(FakeSocket.last.messages.length, 0);
});

test("a message that is never acknowledged on a live connection leads to a new one", async () => {
  const { chat } = await start();
  FakeSocket.last.greet();
  chat.send("x");
  for (let i = 0; i < 70; i++) {
    FakeSocket.all[0].say({ type: "pong" });
    await tick(1_000);
  }
  assert.ok(FakeSocket.all.length > 1);
  assert.equal(chat.pending.length, 1);
});

test("five hundred messages leave at no more than eight a second", async () => {
  const { chat, all } = await start();
  for (let i = 0; i < 500; i++) chat.send(`n${i}`);
  FakeSocket.last.greet();
  let answered = 0;
  const most = [];
  while (answered < 500) {
    const before = answered;
    for (let i = 0; i < 20; i++) {
      while (FakeSocket.last.messages.length > answered) FakeSocket.last.ack(answered++);
      await tick(50);
    }
    most.push(answered - before);
  }
  assert.ok(Math.max(...most) <= 9, `${Math.max(...most)} in a second`);
  assert.deepEqual(FakeSocket.last.messages.map((m) => m.content), Array.from({ length: 500 }, (_, i) => `n${i}`));
  assert.equal(all("sent").length, 500);
});

test("blank messages and more than the limit are refused", async () => {
  const { chat } = await start({ limit: 2 });
  assert.throws(() => chat.send(" \n"), TypeError);
  chat.send("a");
  chat.send("b");
  assert.throws(() => chat.send("c"), RangeError);
});

test("a waiting message can be discarded, one in progress can't", async () => {
  const { chat } = await start();
  const [a, b] = [chat.send("a"), chat.send("b")];
  FakeSocket.last.greet();
  chat.discard(a);
  chat.discard(b);
  assert.deepEqual(chat.pending.map((i) => i.clientMessageId), [a]);
});

// -- storage ----------------------------------------------------------------------------------

test("a reload loses nothing: messages that waited or were in progress are sent under their keys", async () => {
  const storage = new FakeStorage();
  const first = await start({ storage });
  FakeSocket.last.greet();
  const ids = [first.chat.send("a"), first.chat.send("b")];
  leave();
  const second = await start({ storage });
  FakeSocket.last.greet();
  assert.equal(FakeSocket.last.messages[0].clientMessageId, ids[0]);
  FakeSocket.last.ack();
  assert.equal(FakeSocket.last.messages[1].clientMessageId, ids[1]);
  FakeSocket.last.ack();
  const third = await start({ storage });
  assert.deepEqual(third.chat.pending, []);
  assert.equal(second.all("sent").length, 2);
});

test("a storage that is full, forbidden or holds nonsense only costs the reload", async () => {
  const forbidden = { getItem() { throw new Error("no"); }, setItem() { throw new Error("full"); } };
  for (const storage of [forbidden, { getItem: () => '{"out":7}', setItem() {} }, { getItem: () => "{", setItem() {} }, null]) {
    const { chat } = await start({ storage });
    FakeSocket.last.greet();
    chat.send("x");
    FakeSocket.last.ack();
    assert.deepEqual(chat.pending, []);
  }
});

// -- receiving --------------------------------------------------------------------------------

test("a message reaches the page once, an update of it too", async () => {
  const { all } = await start();
  FakeSocket.last.greet();
  for (let i = 0; i < 3; i++) FakeSocket.last.say(message("m1", "x", "u2"));
  const updated = { type: "message_updated", data: { ...message("m1", "y").data, updatedAt: "z" } };
  FakeSocket.last.say(updated);
  FakeSocket.last.say(updated);
  assert.equal(all("message").length, 1);
  assert.equal(all("message_updated").length, 1);
});

test("the echo marks the message in progress, the ack settles it", async () => {
  const { chat } = await start();
  FakeSocket.last.greet();
  chat.send(" x ");
  FakeSocket.last.say(message("m1", "x"));
  assert.equal(chat.pending[0].id, "m1");
  assert.equal(chat.pending[0].status, "sending");
  FakeSocket.last.ack(-1, "m1");
  assert.deepEqual(chat.pending, []);
});

test("known events are emitted by name, all others as `event`, and the client's own names can't be forged", async () => {
  const { heard } = await start();
  FakeSocket.last.greet();
  heard.length = 0;
  for (const type of ["typing", "agent_joined", "pong", "refreshed", "state", "sent", "news"]) FakeSocket.last.say({ type, data: {} });
  assert.deepEqual(heard.map(([type]) => type), ["typing", "agent_joined", "event", "event", "event"]);
});

test("frames that are not events are dropped", async () => {
  const { heard } = await start();
  FakeSocket.last.greet();
  heard.length = 0;
  for (const text of ["", "{", "null", "[]", "7", '"x"', "{}", '{"type":"message"}', '{"type":"message","data":{}}', '{"type":"ack"}']) FakeSocket.last.say(text);
  assert.deepEqual(heard, []);
});

test("recovered means nothing to reload; not recovered means a reload", async () => {
  const { all } = await start();
  FakeSocket.last.greet();
  for (const [recovered, reloads] of [[true, 1], [false, 2]]) {
    FakeSocket.last.end(1006);
    await tick(1_100);
    FakeSocket.last.greet({ recovered, cursor: recovered ? "e.0" : "f.7" });
    assert.equal(all("reload").length, reloads);
  }
  FakeSocket.last.end(1006);
  await tick(4_000);
  assert.equal(FakeSocket.last.url.searchParams.get("cursor"), "f.7");
});

test("on() returns a function that stops it", async () => {
  const { chat } = await start();
  let heard = 0;
  const stop = chat.on("typing", () => heard++);
  FakeSocket.last.greet();
  FakeSocket.last.say({ type: "typing", data: {} });
  stop();
  FakeSocket.last.say({ type: "typing", data: {} });
  assert.equal(heard, 1);
});

// -- signs of life ----------------------------------------------------------------------------

test("a connection without an answer to a ping is dropped, with one it stays", async () => {
  const { chat } = await start();
  FakeSocket.last.greet();
  for (let i = 0; i < 3; i++) {
    await tick(20_500);
    assert.deepEqual(FakeSocket.last.sent.at(-1), { type: "ping" });
    FakeSocket.last.say({ type: "pong" });
  }
  assert.equal(FakeSocket.all.length, 1);
  await tick(42_000);
  assert.ok(FakeSocket.all.length > 1);
  assert.ok(FakeSocket.all[0].closed);
  assert.notEqual(chat.state, "open");
});

test("online, a visible tab and pageshow reconnect at once, or send a quick ping", async () => {
  const listeners = {};
  globalThis.addEventListener = (type, listener) => (listeners[type] = listener);
  globalThis.removeEventListener = (type) => delete listeners[type];
  try {
    await start({ spread: 1e6 });
    FakeSocket.last.greet();
    listeners.online({ type: "online" });
    assert.deepEqual(FakeSocket.last.sent, [{ type: "ping" }]);
    await tick(5_100);
    assert.ok(FakeSocket.all[0].closed, "no answer within five seconds");
    await tick(5_100);
    FakeSocket.last.greet();
    await tick(2_000);
    const before = FakeSocket.all.length;
    FakeSocket.last.end(1012);
    listeners.pageshow({ type: "pageshow" });
    await tick();
    assert.equal(FakeSocket.all.length, before + 1);
    reset();
    assert.deepEqual(listeners, {});
  } finally {
    delete globalThis.addEventListener;
    delete globalThis.removeEventListener;
  }
});

test("a hidden tab reconnects with the network, but not because it is hidden", async () => {
  const listeners = {};
  const page = { hidden: true, addEventListener: (type, listener) => (listeners[type] = listener), removeEventListener() {} };
  globalThis.addEventListener = page.addEventListener;
  globalThis.removeEventListener = page.removeEventListener;
  globalThis.document = page;
  try {
    const { connect } = await import("../../eclipse_ws/static/eclipse-chat.js?with-a-page");
    const token = async () => ({ token: "t", wsUrl: "ws://server", userId: "u1" });
    const chat = connect({ chatId: "c1", token, WebSocket: FakeSocket, storage: null, spread: 1e6 });
    await tick();
    FakeSocket.last.greet();
    await tick(2_000);
    FakeSocket.last.end(1012);
    listeners.visibilitychange({ type: "visibilitychange" });
    await tick();
    assert.equal(FakeSocket.all.length, 1);
    listeners.online({ type: "online" });
    await tick();
    assert.equal(FakeSocket.all.length, 2);
    chat.close();
  } finally {
    for (const name of ["addEventListener", "removeEventListener", "document"]) delete globalThis[name];
  }
});

test("a network that is back just after an attempt is noticed", async () => {
  const listeners = {};
  globalThis.addEventListener = (type, listener) => (listeners[type] = listener);
  globalThis.removeEventListener = () => {};
  try {
    let asked = 0;
    await start({ token: async () => { asked++; throw new Error("down"); } });
    await tick(120_000);
    for (let before = asked; asked == before;) await tick(50); // an attempt has just failed: the next would be far away
    const before = asked;
    listeners.online({ type: "online" });
    listeners.online({ type: "online" });
    await tick(900);
    assert.equal(asked, before);
    await tick(200);
    assert.ok(asked >= before + 1);
  } finally {
    delete globalThis.addEventListener;
    delete globalThis.removeEventListener;
  }
});

// -- typing, joining, reading, refreshing --------------------------------------------------------

test("typing is sent every few seconds at most, and ends by itself", async () => {
  const { chat } = await start();
  chat.typing();
  FakeSocket.last.greet();
  const said = () => FakeSocket.last.sent.filter(({ type }) => type == "typing").map(({ isTyping }) => isTyping);
  for (let i = 0; i < 20; i++) {
    chat.typing();
    await tick(100);
  }
  assert.deepEqual(said(), [true]);
  await tick(1_000);
  chat.typing();
  assert.deepEqual(said(), [true, true]);
  await tick(4_100);
  assert.deepEqual(said(), [true, true, false]);
  chat.typing(false);
  assert.deepEqual(said(), [true, true, false]);
});

test("sending a message ends typing", async () => {
  const { chat } = await start();
  FakeSocket.last.greet();
  chat.typing();
  chat.send("hello");
  assert.deepEqual(FakeSocket.last.sent.filter(({ type }) => type != "ping").map(({ type, isTyping }) => [type, isTyping]), [
    ["typing", true],
    ["typing", false],
    ["message", undefined],
  ]);
});

test("an agent is announced once, as soon as there is a connection", async () => {
  const { chat } = await start();
  chat.joined({ agentId: "a", agentName: "Ada" });
  FakeSocket.last.greet();
  FakeSocket.last.end(1006);
  await tick(600);
  FakeSocket.last.greet();
  const said = FakeSocket.all.flatMap((s) => s.sent).filter(({ type }) => type == "agent_joined");
  assert.deepEqual(said, [{ type: "agent_joined", agentId: "a", agentName: "Ada" }]);
});

test("the session's token is renewed before it ends, by the server's clock, if the user stays the same", async () => {
  for (const [userId, expected] of [["u1", 1], ["u2", 0]]) {
    reset();
    let user = "u1";
    await start({ token: async () => ({ token: "t", wsUrl: "ws://server", userId: user }) });
    FakeSocket.last.greet({ timestamp: "2001-01-01T00:00:00.000Z", expiresAt: "2001-01-01T00:10:00.000Z" });
    user = userId;
    for (let i = 0; i < 57; i++) {
      await tick(10_000);
      FakeSocket.last.say({ type: "pong" });
    }
    assert.equal(FakeSocket.last.sent.filter(({ type }) => type == "refresh").length > 0, expected == 1);
    assert.equal(FakeSocket.all.length, 1);
  }
});

test("a failed refresh is tried again later", async () => {
  let asked = 0;
  await start({ token: async () => { if (asked++) throw new Error("down"); return { token: "t", wsUrl: "ws://server", userId: "u1" }; } });
  FakeSocket.last.greet({ timestamp: "2001-01-01T00:00:00.000Z", expiresAt: "2001-01-01T00:01:00.000Z" });
  for (let i = 0; i < 12; i++) {
    await tick(10_000);
    FakeSocket.last.say({ type: "pong" });
  }
  assert.ok(asked > 2);
});

test("a server's wrong clock renews no token too early or too late", async () => {
  for (const year of ["2001", "2099"]) {
    reset();
    await start();
    FakeSocket.last.greet({ timestamp: `${year}-01-01T00:00:00.000Z`, expiresAt: `${year}-01-01T00:10:00.000Z` });
    const refreshes = () => FakeSocket.last.sent.filter(({ type }) => type == "refresh").length;
    for (let i = 0; i < 53; i++) {
      await tick(10_000);
      FakeSocket.last.say({ type: "pong" });
    }
    assert.equal(refreshes(), 0, year);
    for (let i = 0; i < 4; i++) {
      await tick(10_000);
      FakeSocket.last.say({ type: "pong" });
    }
    assert.equal(refreshes(), 1, year);
    assert.equal(FakeSocket.all.length, 1);
  }
});

// -- the old server ---------------------------------------------------------------------------

test("old server: the echo is the acknowledgement, and duplicates are dropped", async () => {
  const { chat, all } = await start();
  FakeSocket.last.greetLikeToday();
  chat.send("a");
  chat.send("b");
  assert.deepEqual(FakeSocket.last.sent.map(({ type }) => type), ["message"]);
  for (let i = 0; i < 3; i++) FakeSocket.last.say(message("m1", "a"));
  FakeSocket.last.say(message("m2", "b", "u2"));
  assert.equal(all("sent").length, 1);
  assert.equal(FakeSocket.last.messages.length, 2);
  FakeSocket.last.say(message("m3", "b"));
  assert.deepEqual(all("sent").map(({ id }) => id), ["m1", "m3"]);
  assert.equal(all("message").length, 3);
});

test("old server: a message in progress when the connection breaks may have been saved", async () => {
  const { chat, all } = await start();
  FakeSocket.last.greetLikeToday();
  const id = chat.send("a");
  chat.send("b");
  FakeSocket.last.end(1006);
  await tick(600);
  FakeSocket.last.greetLikeToday();
  assert.equal(all("failed")[0].clientMessageId, id);
  assert.equal(all("failed")[0].code, "outcome_unknown");
  assert.deepEqual(FakeSocket.last.messages.map(({ content }) => content), ["b"]);
  chat.history([{ id: "m1", content: "a", sender: { id: "u1" } }]);
  assert.deepEqual(all("sent").map((s) => s.id), ["m1"]);
});

test("old server: its error fails the message in progress, and silence makes the outcome unknown", async () => {
  const { chat, all } = await start();
  FakeSocket.last.greetLikeToday();
  chat.send("a");
  FakeSocket.last.say({ type: "error", error: "Failed to send message" });
  assert.equal(all("failed")[0].code, "failed");
  chat.send("b");
  for (let i = 0; i < 65; i++) {
    FakeSocket.last.say({ type: "pong" });
    await tick(1_000);
  }
  assert.equal(all("failed")[1].code, "outcome_unknown");
  assert.equal(FakeSocket.all.length, 1);
});
