// Whose message is it? Applications may use other user ids than tokens, and some servers send only the echo.
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { FakeSocket, FakeStorage, leave, message, reset, start, tick } from "./fake.mjs";

beforeEach(reset);

const mapped = (id, content, more = {}) => message(id, content, "db-17", more);

test("an old server's echo under another sender id settles the message, and the next one goes out", async () => {
  const { chat, all } = await start();
  FakeSocket.last.greetLikeToday();
  chat.send("one");
  chat.send("two");
  FakeSocket.last.say(mapped("m1", "one"));
  assert.deepEqual(all("sent").map(({ id }) => id), ["m1"]);
  FakeSocket.last.say(mapped("m2", "two"));
  assert.deepEqual(chat.pending, []);
  assert.ok(chat.isMine({ id: "m1", sender: { id: "db-17" } }));
});

test("an old server's echo with trimmed content, a number for its id, a role in capitals and no sender settles it, too", async () => {
  const { chat, all } = await start();
  FakeSocket.last.greetLikeToday();
  chat.send(" two\r\nlines \ud83d");
  FakeSocket.last.say({ type: "message", data: { id: 7, content: "two\nlines \ufffd", role: "USER", sender: null } });
  assert.deepEqual(all("sent").map(({ id }) => id), ["7"]);
  assert.equal(all("message")[0].data.id, "7");
  assert.ok(chat.isMine({ id: 7, sender: null }));
});

test("an echo before its ack belongs to the message at once, whoever its sender is", async () => {
  const { chat } = await start();
  FakeSocket.last.greet();
  chat.send("hello");
  let seen;
  chat.on("message", ({ data }) => (seen = [chat.pending[0].id, chat.isMine(data)]));
  FakeSocket.last.say(mapped("m1", "hello"));
  assert.deepEqual(seen, ["m1", true]);
  assert.equal(chat.pending.length, 1);
  FakeSocket.last.ack(-1, "m1");
  assert.deepEqual(chat.pending, []);
  assert.ok(chat.isMine({ id: "m1", sender: null }));
  assert.ok(chat.isMine({ id: "m0", sender: { id: "db-17" } }), "the sender is known from the confirmed echo");
});

test("an ack corrects a wrongly matched echo", async () => {
  const { chat, all } = await start();
  FakeSocket.last.greet();
  chat.send("ok");
  FakeSocket.last.say(mapped("m1", "ok"));
  FakeSocket.last.ack(-1, "m2");
  assert.equal(all("sent")[0].id, "m2");
  assert.equal(chat.isMine(mapped("m1", "ok").data), false);
  assert.equal(chat.isMine({ id: "m2", sender: null }), true);
});

test("the sender's id is learned from an event after its ack, too", async () => {
  const { chat } = await start();
  FakeSocket.last.greet();
  chat.send("x");
  FakeSocket.last.ack(-1, "m1");
  FakeSocket.last.say(mapped("m1", "x"));
  assert.ok(chat.isMine({ id: "m9", sender: { id: "db-17" } }));
});

test("another agent's message with the same text is not mine", async () => {
  const agent = { role: "ASSISTANT" };
  const { chat, all } = await start(agent);
  const by = (id, content, user) => ({ type: "message", data: { id, content, role: "assistant", sender: { id: user } } });
  FakeSocket.last.greetLikeToday();
  chat.send("Hello");
  FakeSocket.last.say(by("m1", "Hello", "u1"));
  chat.send("Bye");
  FakeSocket.last.say(by("m2", "Bye", "u2"));
  assert.deepEqual(all("sent").map(({ id }) => id), ["m1"]);
  FakeSocket.last.say(by("m3", "Bye", "u1"));
  assert.deepEqual(all("sent").map(({ id }) => id), ["m1", "m3"]);
  assert.equal(chat.isMine(by("m2", "Bye", "u2").data), false);
});

test("the other side's message with the same text is not taken for the echo", async () => {
  const { chat, all } = await start();
  FakeSocket.last.greetLikeToday();
  chat.send("ok");
  FakeSocket.last.say({ type: "message", data: { id: "m1", content: "ok", role: "assistant", sender: { id: "a" } } });
  assert.deepEqual(all("sent"), []);
  FakeSocket.last.say(mapped("m2", "ok"));
  assert.deepEqual(all("sent").map(({ id }) => id), ["m2"]);
});

test("own messages are recognized after a reload, and the memory of them is bounded", async () => {
  const storage = new FakeStorage();
  const { chat } = await start({ storage });
  FakeSocket.last.greet();
  for (let i = 0; i < 120; i++) {
    chat.send(`n${i}`);
    FakeSocket.last.say(message(`m${i}`, `n${i}`, `db-${i}`));
    FakeSocket.last.ack(-1, `m${i}`);
    await tick(150);
  }
  leave();
  const { chat: next } = await start({ storage, token: () => new Promise(() => {}) });
  assert.ok(next.isMine({ id: "m119", sender: null }) && next.isMine({ id: "x", sender: { id: "db-119" } }) && next.isMine({ id: "x", sender: { id: "u1" } }));
  assert.equal(next.isMine({ id: "m1", sender: null }), false);
  assert.ok(storage.getItem("eclipse-chat:c1").length < 5_000);
});

test("a user who returns repeatedly does not displace another own user", async () => {
  const storage = new FakeStorage();
  const as = (userId) => start({ storage, token: async () => ({ token: "t", wsUrl: "ws://server", userId }) });
  (await as("u1")).chat.close();
  for (let i = 0; i < 100; i++) (await as("u2")).chat.close();
  const { chat } = await as("u2");
  assert.ok(chat.isMine({ id: "x", sender: { id: "u1" } }));
});

test("a confirmed message does not settle another one with the same text", async () => {
  const { chat, all } = await start();
  FakeSocket.last.greet();
  chat.send("ok");
  FakeSocket.last.ack(-1, "m1");
  const id = chat.send("ok");
  FakeSocket.last.say({ type: "error", error: "?", code: "outcome_unknown", clientMessageId: id });
  chat.history([{ id: "m1", content: "ok", sender: { id: "u1" } }]);
  assert.deepEqual(all("sent").map(({ clientMessageId }) => clientMessageId == id), [false]);
  assert.deepEqual(chat.pending.map(({ clientMessageId, status }) => [clientMessageId, status]), [[id, "failed"]]);
});

test("a numeric user id in the token's answer is text", async () => {
  const { chat } = await start({ token: async () => ({ token: "t", wsUrl: "ws://server", userId: 42 }) });
  assert.equal(chat.userId, "42");
  assert.ok(chat.isMine({ id: 1, sender: { id: 42 } }));
});

test("a deleted message is reported once, does not come back, and no longer marks a place in the history", async () => {
  const { chat, all } = await start();
  FakeSocket.last.greet();
  FakeSocket.last.say(message("m1", "a", "u2"));
  FakeSocket.last.say(message("m2", "b", "u2"));
  const id = chat.send("x");
  for (let i = 0; i < 2; i++) FakeSocket.last.say({ type: "message_deleted", data: { id: "m2", deletedAt: "z" } });
  FakeSocket.last.say(message("m2", "b", "u2"));
  assert.deepEqual(all("message_deleted").map(({ data }) => data), [{ id: "m2", deletedAt: "z" }]);
  assert.equal(all("message").length, 2);
  assert.equal(chat.pending[0].after, "m1");
  FakeSocket.last.say({ type: "error", error: "?", code: "outcome_unknown", clientMessageId: id });
  chat.history([message("m1", "a", "u2").data, message("m3", "x").data]);
  assert.deepEqual(all("sent").map((sent) => sent.id), ["m3"]);
});
