// Several chats on one socket.
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { FakeSocket, FakeStorage, message, record, reset, start, tick } from "./fake.mjs";

beforeEach(reset);

const said = (type, socket = FakeSocket.last) => socket.sent.filter((command) => command.type == type);
const chats = (n = -1) => said("join").at(n)?.chats;
const joined = (chatId, more = {}) => FakeSocket.last.say({ type: "joined", chatId, cursor: `${chatId}.0`, ...more });
const texts = (heard) => heard.filter(([type]) => type == "message").map(([, { data }]) => data.content);
/** Further connections come, until there is one more socket. */
const again = async () => {
  const { length } = FakeSocket.all;
  while (FakeSocket.all.length == length) await tick(100);
};

/** A chat that is open, and joined ones beside it. */
async function desk(ids, options) {
  const base = await start(options);
  FakeSocket.last.greet();
  const others = ids.map((id) => record(base.chat.join(id)));
  await tick();
  for (const id of ids) joined(id);
  return [base, ...others];
}

test("a client with one chat never says join, and its commands have no chatId", async () => {
  const { chat } = await start();
  FakeSocket.last.greet();
  chat.send("x");
  chat.typing();
  await tick(3_000);
  FakeSocket.last.end(1006);
  await again();
  FakeSocket.last.greet({ recovered: true });
  const commands = FakeSocket.all.flatMap(({ sent }) => sent);
  assert.ok(commands.length > 2);
  assert.deepEqual(commands.filter((command) => command.type == "join" || "chatId" in command), []);
});

test("chats are joined in one frame, each gets its greeting, and a chat's commands name it", async () => {
  const { chat } = await start();
  const others = ["a", "b", 3].map((id) => record(chat.join(id)));
  await tick();
  assert.deepEqual(others.map((o) => o.chat.state), ["connecting", "connecting", "connecting"]);
  assert.deepEqual(others.map((o) => o.chat.pending), [[], [], []]);
  FakeSocket.last.greet();
  await tick();
  assert.equal(FakeSocket.all.length, 1);
  assert.deepEqual(said("join"), [{ type: "join", chats: [{ chatId: "a" }, { chatId: "b" }, { chatId: "3" }] }]);
  joined("b", { timestamp: "t" });
  assert.deepEqual(others.map((o) => o.chat.state), ["connecting", "open", "connecting"]);
  const [b] = others[1].all("connected");
  assert.deepEqual(b, { type: "connected", chatId: "b", cursor: "b.0", timestamp: "t", sessionId: "s1" });
  assert.deepEqual(others[1].names(), ["state", "connected", "reload"]);
  assert.deepEqual([others[1].chat.userId, others[1].chat.sessionId], ["u1", "s1"]);
  others[1].chat.send("x");
  others[1].chat.joined({ agentName: "Ada" });
  chat.send("y");
  assert.deepEqual(FakeSocket.last.messages.map(({ content, chatId }) => [content, chatId]), [["x", "b"], ["y", "c1"]]);
  assert.deepEqual(said("agent_joined"), [{ type: "agent_joined", agentName: "Ada", chatId: "b" }]);
});

test("an event reaches the chat that it names, or none", async () => {
  const [base, a, b] = await desk(["a", "b"]);
  FakeSocket.last.say(message("m1", "for a", "u2", { chatId: "a" }));
  FakeSocket.last.say(message("m1", "for b", "u2", { chatId: "b" }));
  FakeSocket.last.say(message("m1", "for c1", "u2", { chatId: "c1" }));
  FakeSocket.last.say(message("m1", "for nobody", "u2", { chatId: "d" }));
  FakeSocket.last.say({ type: "error", error: "Too fast", code: "rate_limited", retryable: true, chatId: "a" });
  assert.deepEqual([base, a, b].map(({ heard }) => texts(heard)), [["for c1"], ["for a"], ["for b"]]);
  assert.deepEqual([base, a, b].map(({ all }) => all("error").length), [0, 1, 0]);
});

test("before anything was joined, an event's own chatId means nothing", async () => {
  const { heard } = await start();
  FakeSocket.last.greet();
  FakeSocket.last.say(message("m1", "x", "u2", { chatId: "theirs" }));
  assert.deepEqual(texts(heard), ["x"]);
});

test("a reconnect joins all chats with their cursors, and each hears whether it has missed something", async () => {
  const [base, a, b, c] = await desk(["a", "b", "c"]);
  FakeSocket.last.say(message("m1", "x", "u2", { chatId: "a", cursor: "a.1" }));
  FakeSocket.last.say({ type: "ack", clientMessageId: "?", id: "m2", chatId: "a", cursor: "a.9" });
  FakeSocket.last.end(1006);
  assert.deepEqual([a, b].map(({ chat }) => chat.state), ["waiting", "waiting"]);
  await again();
  assert.equal(FakeSocket.last.url.searchParams.get("cursor"), "e.0");
  FakeSocket.last.greet({ recovered: true });
  await tick();
  assert.deepEqual(said("join"), [
    { type: "join", chats: [{ chatId: "a", cursor: "a.1" }, { chatId: "b", cursor: "b.0" }, { chatId: "c", cursor: "c.0" }] },
  ]);
  joined("a", { cursor: "a.1", recovered: true });
  joined("b", { cursor: "f.7", recovered: false });
  assert.deepEqual([base, a, b, c].map(({ all }) => all("reload").length), [1, 1, 2, 1]);
  assert.deepEqual([base, a, b, c].map(({ chat }) => chat.state), ["open", "open", "open", "connecting"]);
});

test("five hundred chats are joined by one frame, more by several", async () => {
  await desk(Array.from({ length: 501 }, (_, n) => `n${n}`));
  assert.deepEqual(said("join").map(({ chats }) => chats.length), [500, 1]);
});

test("each chat sends one message at a time, all together at most eight a second", async () => {
  const [base, a, b] = await desk(["a", "b"]);
  for (let n = 0; n < 6; n++) for (const { chat } of [base, a, b]) chat.send(`${n}`);
  assert.deepEqual(FakeSocket.last.messages.map(({ content, chatId }) => content + chatId), ["0c1", "0a", "0b"]);
  // The first does not answer: the others go on.
  for (let answered = 0; answered < 12; await tick(50))
    for (const { clientMessageId, chatId } of FakeSocket.last.messages.filter(({ chatId }) => chatId != "c1").slice(answered)) {
      FakeSocket.last.say({ type: "ack", clientMessageId, chatId, id: `${chatId}${answered++}` });
      assert.ok(FakeSocket.last.messages.length <= 9 || answered > 7);
    }
  assert.deepEqual([base, a, b].map(({ chat }) => chat.pending.length), [6, 0, 0]);
  assert.deepEqual(a.all("sent").length, 6);
});

test("unsent messages of each chat are stored for it alone", async () => {
  const storage = new FakeStorage();
  const { chat } = await start({ storage });
  chat.join("a").send("for a");
  chat.send("for c1");
  assert.deepEqual([...storage.map.keys()].sort(), ["eclipse-chat:a", "eclipse-chat:c1"]);
  assert.match(storage.map.get("eclipse-chat:a"), /for a/);
  assert.doesNotMatch(storage.map.get("eclipse-chat:a"), /for c1/);
});

test("closing a joined chat leaves it, and the socket and the other chats stay", async () => {
  const [base, a, b] = await desk(["a", "b"]);
  a.chat.close();
  await tick();
  assert.deepEqual(said("leave"), [{ type: "leave", chats: [{ chatId: "a" }] }]);
  assert.deepEqual(a.all("state").at(-1), { state: "closed", code: 1000, reason: "" });
  FakeSocket.last.say(message("m1", "late", "u2", { chatId: "a" }));
  FakeSocket.last.say({ type: "left", chatId: "a" });
  assert.deepEqual([texts(a.heard), texts(base.heard)], [[], []]);
  assert.throws(() => a.chat.send("x"), /closed/);
  FakeSocket.last.end(1006);
  await again();
  FakeSocket.last.greet({ recovered: true });
  await tick();
  assert.deepEqual(chats(), [{ chatId: "b", cursor: "b.0" }]);
  assert.equal(b.chat.state, "connecting");
});

test("closing the connection closes all chats", async () => {
  const [base, a] = await desk(["a"]);
  a.chat.send("x");
  base.chat.close();
  assert.deepEqual([a.chat.state, a.chat.pending[0].status], ["closed", "waiting"]);
  assert.ok(FakeSocket.last.closed);
  const late = base.chat.join("b");
  assert.equal(late.state, "closed");
  assert.throws(() => late.send("x"), /closed/);
});

test("a chat that is left and joined again in one turn is joined, and loads its messages", async () => {
  const [base, a] = await desk(["a"]);
  a.chat.close();
  const next = record(base.chat.join("a"));
  await tick();
  assert.equal(said("leave").length, 0);
  assert.deepEqual(chats(), [{ chatId: "a" }]);
  joined("a", { cursor: "a.5" });
  assert.equal(next.chat.state, "open");
  assert.equal(next.all("reload").length, 1);
});

test("a chat that is joined while the answer to a leave is awaited is joined after it", async () => {
  const [base, a] = await desk(["a"]);
  a.chat.close();
  await tick();
  const next = base.chat.join("a");
  await tick();
  assert.equal(said("join").length, 1);
  FakeSocket.last.say({ type: "left", chatId: "a" });
  await tick();
  assert.equal(said("join").length, 2);
  joined("a");
  assert.equal(next.state, "open");
});

test("a leave that comes too late is answered by an error, and the chat can be joined again", async () => {
  const [base, a] = await desk(["a"]);
  a.chat.close();
  await tick();
  const next = record(base.chat.join("a"));
  FakeSocket.last.say({ type: "error", chatId: "a", error: "Not in this chat", code: "not_joined" });
  await tick();
  assert.equal(said("join").length, 2);
  joined("a");
  assert.equal(next.chat.state, "open");
  assert.deepEqual(next.all("error"), []);
});

test("a chat that is closed while it is being joined is left as soon as it is joined", async () => {
  const { chat } = await start();
  FakeSocket.last.greet();
  const other = chat.join("a");
  await tick();
  other.close();
  await tick();
  assert.equal(said("leave").length, 0);
  joined("a");
  await tick();
  assert.deepEqual(said("leave"), [{ type: "leave", chats: [{ chatId: "a" }] }]);
});

test("two who take part in one chat both hear it, and it is left with the second", async () => {
  const [base, a] = await desk(["a"]);
  const second = record(base.chat.join("a"));
  await tick();
  joined("a", { cursor: "a.3" });
  assert.deepEqual([a.all("connected").length, second.all("connected").length], [1, 1]);
  FakeSocket.last.say(message("m1", "x", "u2", { chatId: "a" }));
  assert.deepEqual([texts(a.heard), texts(second.heard)], [["x"], ["x"]]);
  a.chat.close();
  await tick();
  assert.equal(said("leave").length, 0);
  second.chat.close();
  await tick();
  assert.equal(said("leave").length, 1);
});

test("who takes part in a chat only as it is resumed has to load it", async () => {
  const [base, a] = await desk(["a"]);
  FakeSocket.last.end(1006);
  const second = record(base.chat.join("a"));
  await again();
  FakeSocket.last.greet({ recovered: true });
  await tick();
  assert.deepEqual(chats(), [{ chatId: "a", cursor: "a.0" }]);
  joined("a", { recovered: true });
  assert.deepEqual([a, second].map(({ all }) => all("reload").length), [1, 1]);
  assert.deepEqual([a, second].map(({ all }) => all("connected").at(-1).recovered), [true, undefined]);
});

test("a cursor that the page has resumes the chat", async () => {
  const { chat } = await start();
  FakeSocket.last.greet();
  const a = record(chat.join("a", { cursor: "a.4" }));
  await tick();
  assert.deepEqual(chats(), [{ chatId: "a", cursor: "a.4" }]);
  joined("a", { cursor: "a.4", recovered: true });
  assert.deepEqual(a.names(), ["state", "connected"]);
});

// -- taken out by the server ------------------------------------------------------------------

test("4010: the chat is joined again at once, with its cursor, and what was being sent is sent again", async () => {
  const [, a] = await desk(["a"]);
  await tick(2_000);
  a.chat.send("x");
  FakeSocket.last.say({ type: "left", chatId: "a", code: 4010, reason: "Resume needed" });
  assert.deepEqual(a.all("state").at(-1), { state: "waiting", code: 4010, reason: "Resume needed", retryIn: 0 });
  await tick(50);
  assert.deepEqual(chats(), [{ chatId: "a", cursor: "a.0" }]);
  joined("a", { recovered: true });
  assert.equal(a.chat.state, "open");
  assert.equal(a.all("reload").length, 1);
  assert.deepEqual(FakeSocket.last.sent.map(({ type, resend }) => [type, resend]), [
    ["join", undefined],
    ["message", undefined],
    ["join", undefined],
    ["message", true],
  ]);
  assert.equal(FakeSocket.all.length, 1);
});

test("a server that takes the session out again and again is asked slowly", async () => {
  await desk(["a"]);
  for (let n = 0; n < 60; n++) {
    FakeSocket.last.say({ type: "left", chatId: "a", code: 4010 });
    await tick(100);
    joined("a", { recovered: true });
  }
  assert.ok(said("join").length < 15, `${said("join").length} in six seconds`);
});

test("4003: that chat is closed, and the others stay", async () => {
  const [base, a, b] = await desk(["a", "b"]);
  FakeSocket.last.say({ type: "left", chatId: "a", code: 4003, reason: "Disconnected" });
  assert.deepEqual(a.all("state").at(-1), { state: "closed", code: 4003, reason: "Disconnected" });
  FakeSocket.last.say({ type: "left", chatId: "c1", code: 4003, reason: "Disconnected" });
  assert.equal(base.chat.state, "closed");
  await tick(19_000);
  assert.equal(b.chat.state, "open");
  assert.equal(said("join").length, 1);
  base.chat.close();
  assert.equal(b.chat.state, "closed");
});

test("a connection whose last chat has ended is closed", async () => {
  const [base, a] = await desk(["a"]);
  FakeSocket.last.say({ type: "left", chatId: "c1", code: 4003 });
  a.chat.close();
  await tick();
  assert.equal(base.chat.state, "closed");
  assert.ok(FakeSocket.last.closed);
});

test("another code: the chat is joined again after waits that grow", async () => {
  const [, a] = await desk(["a"]);
  await tick(2_000);
  FakeSocket.last.say({ type: "left", chatId: "a", code: 4008, reason: "Too slow" });
  assert.equal(a.chat.state, "waiting");
  for (let n = 0; n < 3; n++) {
    const { length } = said("join");
    const { retryIn } = a.all("state").at(-1);
    assert.ok(retryIn >= 500 * 2 ** n && retryIn <= 1_000 * 2 ** n, `${retryIn} ms`);
    while (said("join").length == length) await tick(50);
    assert.equal(a.chat.state, "connecting");
    FakeSocket.last.say({ type: "error", chatId: "a", error: "Try later", code: "internal_error", retryable: true });
  }
  assert.equal(a.all("error").length, 3);
});

test("the token's own chat is joined again like any other", async () => {
  const [base, a] = await desk(["a"]);
  await tick(2_000);
  FakeSocket.last.say({ type: "left", chatId: "c1", code: 4010 });
  await tick(50);
  assert.deepEqual(chats(), [{ chatId: "c1", cursor: "e.0" }]);
  assert.equal(a.chat.state, "open");
  joined("c1", { recovered: true });
  assert.equal(base.chat.state, "open");
});

test("a message to a chat that the session isn't in is sent again once it is", async () => {
  const [, a] = await desk(["a"]);
  await tick(2_000);
  a.chat.send("x");
  const [{ clientMessageId }] = FakeSocket.last.messages;
  FakeSocket.last.say({ type: "error", chatId: "a", error: "Not in this chat", code: "not_joined", retryable: false, clientMessageId });
  await tick(50);
  joined("a", { recovered: true });
  await tick(2_000);
  assert.equal(FakeSocket.last.messages.length, 2);
  assert.deepEqual(a.all("failed"), []);
});

// -- tokens -----------------------------------------------------------------------------------

const tokens = () => {
  const asked = [];
  const token = async ({ chatId }) => ({ token: `${chatId} ${asked.push(chatId)}`, wsUrl: "ws://server/ws", userId: "u1" });
  return { asked, token };
};

test("a chat that the session's token doesn't open is joined with a token for it", async () => {
  const { asked, token } = tokens();
  const { chat } = await start({ token });
  FakeSocket.last.greet();
  const a = record(chat.join("a"));
  await tick();
  FakeSocket.last.say({ type: "error", chatId: "a", error: "No", code: "forbidden", retryable: false });
  await tick();
  assert.deepEqual(asked, ["c1", "a"]);
  assert.deepEqual(chats(), [{ chatId: "a", token: "a 2" }]);
  joined("a");
  assert.equal(a.chat.state, "open");
  assert.deepEqual(a.all("error"), []);
  // It is used until the server refuses it.
  FakeSocket.last.end(1006);
  await again();
  FakeSocket.last.greet({ recovered: true });
  await tick();
  assert.deepEqual(chats(), [{ chatId: "a", cursor: "a.0", token: "a 2" }]);
  FakeSocket.last.say({ type: "error", chatId: "a", error: "Old", code: "token_expired", retryable: false });
  await tick();
  assert.deepEqual(chats(), [{ chatId: "a", cursor: "a.0", token: "a 4" }]);
});

test("a token URL is asked for the joined chat", async () => {
  const asked = [];
  const fetch = async (url) => (asked.push(url.search), { ok: true, json: async () => ({ token: "t", wsUrl: "ws://server/ws", userId: "u1" }) });
  const { chat } = await start({ token: undefined, tokenUrl: "https://app/t", fetch });
  FakeSocket.last.greet();
  chat.join("a b");
  await tick();
  FakeSocket.last.say({ type: "error", chatId: "a b", error: "No", code: "forbidden" });
  await tick();
  assert.deepEqual(asked, ["?chatId=c1", "?chatId=a+b"]);
});

test("a token of its own is asked for before the chat is joined", async () => {
  const { asked, token } = tokens();
  const { chat } = await start();
  FakeSocket.last.greet();
  chat.join("a", { token });
  await tick();
  assert.deepEqual(asked, ["a"]);
  assert.deepEqual(said("join"), [{ type: "join", chats: [{ chatId: "a", token: "a 1" }] }]);
});

test("a new token that is refused, too, is an error, and the chat is tried again", async () => {
  const { asked, token } = tokens();
  const { chat } = await start({ token });
  FakeSocket.last.greet();
  const a = record(chat.join("a"));
  await tick();
  for (let n = 0; n < 2; n++) {
    FakeSocket.last.say({ type: "error", chatId: "a", error: "No", code: "forbidden", retryable: false });
    await tick();
  }
  assert.equal(a.chat.state, "waiting");
  assert.equal(a.all("error").length, 1);
  assert.equal(asked.length, 2);
  await tick(2_000);
  assert.equal(asked.length, 3);
  assert.equal(chats()[0].token, "a 3");
});

test("a token that can't be fetched is the joined chat's error alone", async () => {
  const [base, a] = await desk([]);
  const b = record(base.chat.join("b", { token: () => Promise.reject(Object.assign(Error("no"), { status: 403 })) }));
  await tick();
  assert.deepEqual(b.all("error"), [{ error: "no", code: "token_refused", retryable: false }]);
  assert.equal(b.chat.state, "waiting");
  assert.deepEqual([base.chat.state, base.all("error").length, a], ["open", 0, undefined]);
});

test("4002: the chat's token has expired, and a new one joins it", async () => {
  const { asked, token } = tokens();
  const [, a] = await desk(["a"], { token });
  await tick(2_000);
  FakeSocket.last.say({ type: "left", chatId: "a", code: 4002, reason: "Token expired" });
  await tick(50);
  assert.deepEqual(asked, ["c1", "a"]);
  assert.deepEqual(chats(), [{ chatId: "a", cursor: "a.0", token: "a 2" }]);
  joined("a", { recovered: true });
  assert.equal(a.all("reload").length, 1);
});

test("a user who is banned from a chat is told that it is closed", async () => {
  const { chat } = await start();
  FakeSocket.last.greet();
  const a = record(chat.join("a"));
  await tick();
  FakeSocket.last.say({ type: "error", chatId: "a", error: "You are banned", code: "banned", retryable: false });
  assert.deepEqual(a.all("state").at(-1), { state: "closed", code: 4003, reason: "You are banned" });
  assert.equal(chat.state, "open");
});

// -- a token without a chat -------------------------------------------------------------------

test("a token without a chat opens a connection, and chats are joined over it", async () => {
  const base = await start({ chatId: undefined });
  FakeSocket.last.say({ type: "connected", sessionId: "s1" });
  assert.equal(base.chat.state, "open");
  assert.deepEqual(base.names(), ["outbox", "state", "connected"]);
  const a = record(base.chat.join("a"));
  await tick();
  joined("a");
  a.chat.send("x");
  assert.equal(FakeSocket.last.messages[0].chatId, "a");
  FakeSocket.last.end(1006);
  await again();
  assert.equal(FakeSocket.last.url.searchParams.get("cursor"), null);
});

test("a token without a chat joins the chat of the options", async () => {
  const base = await start();
  FakeSocket.last.say({ type: "connected", sessionId: "s1" });
  await tick();
  assert.equal(base.chat.state, "connecting");
  assert.deepEqual(chats(), [{ chatId: "c1" }]);
  joined("c1");
  assert.deepEqual(base.names(), ["outbox", "state", "connected", "reload"]);
  base.chat.send("x");
  assert.equal(FakeSocket.last.messages[0].chatId, "c1");
});

// -- other servers ----------------------------------------------------------------------------

test("a server that does not know join gets a socket for each chat", async () => {
  for (const code of ["unknown_type", undefined]) {
    reset();
    const { asked, token } = tokens();
    const base = await start({ token });
    FakeSocket.last.greet();
    const a = record(base.chat.join("a"));
    const b = record(base.chat.join("b"));
    await tick();
    a.chat.send("early");
    FakeSocket.last.say({ type: "error", error: "Unknown message type", code });
    await tick();
    assert.deepEqual(FakeSocket.all.map(({ url }) => url.searchParams.get("token")), ["c1 1", "a 2", "b 3"]);
    FakeSocket.all[1].greet({ chatId: "a" });
    FakeSocket.all[2].greet({ chatId: "b" });
    assert.deepEqual(FakeSocket.all.map(({ messages }) => messages.map(({ content, chatId }) => [content, chatId])), [[], [["early", undefined]], []]);
    assert.deepEqual([a, b].map(({ chat, all }) => [chat.state, all("reload").length]), [["open", 1], ["open", 1]]);
    base.chat.send("x");
    assert.equal("chatId" in FakeSocket.all[0].messages[0], false);
    assert.deepEqual(base.all("error"), []);
    b.chat.close();
    assert.deepEqual(FakeSocket.all.map(({ closed }) => !!closed), [false, false, true]);
    assert.equal(asked.length, 3);
    base.chat.close();
    assert.deepEqual([base.chat.state, a.chat.state], ["closed", "closed"]);
  }
});

test("a refusal of the whole frame is every chat's error, and all are joined later", async () => {
  const { chat } = await start();
  const others = ["a", "b"].map((id) => record(chat.join(id)));
  FakeSocket.last.greet();
  await tick();
  FakeSocket.last.say({ type: "error", error: "Rate limit exceeded: joins", code: "rate_limited", retryable: true, retryAfter: 3 });
  assert.deepEqual(others.map(({ chat, all }) => [chat.state, all("error").length]), [["waiting", 1], ["waiting", 1]]);
  await tick(2_900);
  assert.equal(said("join").length, 1);
  await tick(200);
  assert.deepEqual(chats(), [{ chatId: "a" }, { chatId: "b" }]);
});

test("a frame of the application that looks like an answer to join is an event", async () => {
  const [, a] = await desk(["a"]);
  FakeSocket.last.say({ type: "left", chatId: "a", code: 4003, data: { who: "Ada" } });
  assert.equal(a.chat.state, "open");
  assert.equal(a.all("event").length, 1);
});

test("a joined chat that has no answer on a live connection leads to a new one", async () => {
  const [, a] = await desk(["a"]);
  a.chat.send("x");
  for (let n = 0; n < 70; n++) {
    FakeSocket.all[0].say({ type: "pong" });
    await tick(1_000);
  }
  assert.ok(FakeSocket.all.length > 1);
  assert.equal(a.chat.pending.length, 1);
});
