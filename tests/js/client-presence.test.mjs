// Who is there, and who has read what.
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { FakeSocket, message, record, reset, start, tick } from "./fake.mjs";

beforeEach(reset);

const options = { events: ["presence", "read"] };
const presence = (data, more = {}) => FakeSocket.last.say({ type: "presence", data, ...more });
const read = (data, more = {}) => FakeSocket.last.say({ type: "read", data, ...more });
const reads = () => FakeSocket.last.sent.filter(({ type }) => type == "read").map(({ messageId, cursor }) => [messageId, cursor]);
const again = async (greeting) => {
  FakeSocket.last.end(1006);
  const { length } = FakeSocket.all;
  while (FakeSocket.all.length == length) await tick(100);
  FakeSocket.last.greet(greeting);
};
const user = (userId, role = "user") => ({ userId, role, since: "2026-01-01T00:00:00.000Z" });

/** A client whose server knows `read`, with messages m1 to m5. */
async function reader(positions = []) {
  const client = await start(options);
  FakeSocket.last.greet();
  for (let n = 1; n < 6; n++) FakeSocket.last.say(message(`m${n}`, "x", "u2", { cursor: `e.${n}` }));
  read({ positions });
  return client;
}

test("what is requested is in the address, and only then", async () => {
  await start(options);
  assert.equal(FakeSocket.last.url.searchParams.get("events"), "presence,read");
  await start({ events: [] });
  await start();
  assert.deepEqual(FakeSocket.all.slice(1).map(({ url }) => url.searchParams.has("events")), [false, false]);
});

test("who is there follows the list and its changes", async () => {
  const { chat, all } = await start(options);
  assert.deepEqual([chat.online, chat.onlineCount], [[], 0]);
  FakeSocket.last.greet();
  presence({ users: [user("u1"), user("ada", "agent")], count: 2 });
  assert.deepEqual(chat.online.map(({ userId, role }) => userId + role), ["u1user", "adaagent"]);
  presence({ ...user("ben", "agent"), online: true });
  presence({ userId: "ada", role: "agent", online: false });
  presence({ userId: "nobody", role: "user", online: false });
  assert.deepEqual(chat.online, [user("u1"), user("ben", "agent")]);
  assert.equal(chat.onlineCount, 2);
  presence({ ...user("ben", "assistant"), online: true });
  assert.deepEqual(chat.online.map(({ role }) => role), ["user", "assistant"]);
  assert.equal(all("presence").length, 5);
});

test("in a crowd only the number changes, and a list ends it", async () => {
  const { chat } = await start(options);
  FakeSocket.last.greet();
  presence({ users: Array.from({ length: 100 }, (_, n) => user(`u${n}`)), count: 150 });
  presence({ count: 151 });
  assert.deepEqual([chat.online.length, chat.onlineCount], [100, 151]);
  presence({ users: [user("u1")], count: 1 });
  assert.deepEqual([chat.online.length, chat.onlineCount], [1, 1]);
});

test("nobody is known to be there without a connection", async () => {
  const { chat } = await start(options);
  FakeSocket.last.greet();
  presence({ users: [user("u1")], count: 1 });
  FakeSocket.last.end(1006);
  assert.deepEqual([chat.online, chat.onlineCount], [[], 0]);
});

test("an event that was not requested is the application's own", async () => {
  const { chat, names } = await start();
  FakeSocket.last.greet();
  presence({ users: [user("u1")], count: 1 });
  read({ positions: [] });
  assert.deepEqual(names().filter((name) => /event|presence|read/.test(name)), ["event", "event"]);
  assert.deepEqual([chat.online, chat.positions], [[], []]);
});

test("positions follow the list and its changes, and survive a reconnect", async () => {
  const { chat, all } = await reader([{ userId: "ada", role: "agent", messageId: "m1" }]);
  read({ userId: "ada", role: "agent", messageId: "m3" });
  read({ userId: "ben", role: "agent", messageId: "m2" });
  const expected = [{ userId: "ada", role: "agent", messageId: "m3" }, { userId: "ben", role: "agent", messageId: "m2" }];
  assert.deepEqual(chat.positions, expected);
  assert.equal(all("read").length, 3);
  await again({ recovered: true });
  assert.deepEqual(chat.positions, expected);
  read({ positions: [] });
  assert.deepEqual(chat.positions, expected);
});

test("nobody's position goes back, on whatever node it is told", async () => {
  const { chat } = await reader([{ userId: "ada", role: "agent", messageId: "m4" }]);
  const ada = () => chat.positions.filter(({ userId }) => userId == "ada").map(({ messageId }) => messageId);
  await again({ recovered: true });
  read({ positions: [{ userId: "ada", role: "agent", messageId: "m2" }, { userId: "ben", role: "agent", messageId: "m3" }] });
  assert.deepEqual(chat.positions.map(({ userId, messageId }) => userId + messageId), ["adam4", "benm3"]);
  read({ userId: "ada", role: "agent", messageId: "m3" });
  assert.deepEqual(ada(), ["m4"]);
  read({ userId: "ada", role: "agent", messageId: "m5" });
  assert.deepEqual(ada(), ["m5"]);
  // What isn't known here may be later.
  read({ userId: "ada", role: "agent", messageId: "m9" });
  assert.deepEqual(ada(), ["m9"]);
  read({ userId: "ada", role: "agent", messageId: "m1" });
  assert.deepEqual(ada(), ["m1"]);
});

test("what is read is told again to a server that knows an earlier position, whatever is shown", async () => {
  const { chat } = await reader();
  chat.read("m3");
  read({ userId: chat.userId, role: "user", messageId: "m3" });
  await again({ recovered: true });
  read({ positions: [{ userId: chat.userId, role: "user", messageId: "m1" }] });
  assert.deepEqual(reads(), [["m3", "e.5"]]);
  assert.deepEqual(chat.positions.map(({ messageId }) => messageId), ["m3"]);
});

test("reading is told at once, then once a second with the last message, and never backwards", async () => {
  const { chat } = await reader();
  chat.read("m1");
  chat.read("m1");
  chat.read("m2");
  chat.read("m4");
  chat.read("m3");
  assert.deepEqual(reads(), [["m1", "e.5"]]);
  await tick(1_000);
  assert.deepEqual(reads(), [["m1", "e.5"], ["m4", "e.5"]]);
  chat.read("m2");
  await tick(3_000);
  assert.equal(reads().length, 2);
});

test("the cursor is the newest that there was when the message was read", async () => {
  const { chat } = await reader();
  chat.read("m1");
  chat.read("m5");
  FakeSocket.last.say(message("m6", "x", "u2", { cursor: "e.6" }));
  await tick(1_000);
  assert.deepEqual(reads().at(-1), ["m5", "e.5"]);
  chat.read(6);
  await tick(1_000);
  assert.deepEqual(reads().at(-1), ["6", "e.6"]);
});

test("what was read without a connection is told with the next one", async () => {
  const { chat } = await reader();
  FakeSocket.last.end(1006);
  chat.read("m3");
  await tick(5_000);
  FakeSocket.last.greet({ recovered: true });
  chat.read("m4"); // this server may not know it
  assert.deepEqual(reads(), []);
  read({ positions: [] });
  assert.deepEqual(reads(), [["m4", "e.0"]]);
});

test("what was told is told again if the server hasn't got it, and not if it or another tab has", async () => {
  for (const [messageId, expected] of [["m1", 1], ["m3", 0], ["m4", 0]]) {
    reset();
    const { chat } = await reader();
    chat.read("m3");
    await again({ recovered: true });
    read({ positions: [{ userId: "u1", role: "user", messageId }] });
    await tick(2_000);
    assert.equal(reads().length, expected, messageId);
  }
});

test("a server that doesn't know it is told nothing, and an unknown message is nobody's business", async () => {
  const { chat, all } = await start(options);
  FakeSocket.last.greet();
  chat.read("m1");
  await tick(5_000);
  assert.deepEqual(reads(), []);
  read({ positions: [] });
  assert.equal(reads().length, 1);
  chat.send("x");
  FakeSocket.last.say({ type: "error", error: "Unknown message: m1", code: "unknown_message", retryable: false });
  assert.deepEqual([all("error").length, all("failed").length], [0, 0]);
});

test("a joined chat has its own users and positions", async () => {
  const base = await start(options);
  FakeSocket.last.greet();
  const a = record(base.chat.join("a"));
  await tick();
  FakeSocket.last.say({ type: "joined", chatId: "a", cursor: "a.7" });
  presence({ users: [user("u1"), user("u2")], count: 2 }, { chatId: "a" });
  read({ positions: [] }, { chatId: "a" });
  assert.deepEqual([base.chat.onlineCount, a.chat.onlineCount], [0, 2]);
  a.chat.read("m1");
  base.chat.read("m9");
  assert.deepEqual(FakeSocket.last.sent.filter(({ type }) => type == "read"), [{ type: "read", messageId: "m1", cursor: "a.7", chatId: "a" }]);
});

test("a deletion that is replayed in the places of all its message's events is told once", async () => {
  const { all } = await start();
  FakeSocket.last.greet();
  for (const cursor of ["e.1", "e.3", "e.4"]) FakeSocket.last.say({ type: "message_deleted", data: { id: 5, deletedAt: "z" }, cursor });
  FakeSocket.last.say(message(5, "back"));
  assert.deepEqual(all("message_deleted").map(({ data }) => data.id), ["5"]);
  assert.deepEqual(all("message"), []);
  FakeSocket.last.end(1006);
  await tick(1_100);
  assert.equal(FakeSocket.last.url.searchParams.get("cursor"), "e.4");
});
