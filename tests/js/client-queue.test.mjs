// The queue: no message blocks later ones forever, and none is given up for failures that it did not cause.
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { FakeSocket, FakeStorage, leave, message, reset, start, tick } from "./fake.mjs";

beforeEach(reset);

/** Seconds until `done`, with an answer for every message that arrives meanwhile. */
const until = async (done, answer, limit = 1_200) => {
  let answered = new Map();
  for (let seconds = 0; seconds < limit; seconds++) {
    for (const socket of FakeSocket.all) {
      if (socket.readyState == 3 || socket.closed) continue;
      if (!socket.readyState) socket.greet();
      for (let n = answered.get(socket) ?? 0; n < socket.messages.length && !socket.closed && socket.readyState != 3; n = answered.get(socket)) {
        answered.set(socket, n + 1);
        answer(socket, socket.messages[n], n);
      }
      socket.say({ type: "pong" });
    }
    if (done()) return seconds;
    await tick(1_000);
  }
  assert.fail(`nothing came of it in ${limit} s`);
};

const refuse = (code, more = {}) => (socket, { clientMessageId }) =>
  socket.say({ type: "error", error: "Failed to send message", code, retryable: true, clientMessageId, ...more });

const poisoned = (answer) => (socket, command, n) => (command.content == "bad" ? answer(socket, command, n) : socket.ack(n));

test("half an emoji is sent as U+FFFD, NUL not at all", async () => {
  const { chat } = await start();
  FakeSocket.last.greet();
  chat.send("half \ud83d\0");
  assert.equal(FakeSocket.last.messages[0].content, "half \ufffd");
  assert.throws(() => chat.send("\0 \0"), TypeError);
});

test("a text stored by an earlier version is repaired, too", async () => {
  const storage = new FakeStorage();
  const out = [null, {}, { clientMessageId: "a", content: "\udc00x", role: "USER", status: "waiting" }];
  storage.setItem("eclipse-chat:c1", JSON.stringify({ out, mine: ["u0"] }));
  const { chat } = await start({ storage });
  FakeSocket.last.greet();
  assert.equal(FakeSocket.last.messages[0].content, "\ufffdx");
  assert.ok(chat.isMine({ id: "m", sender: { id: "u0" } }));
});

test("a message that is refused repeatedly fails with its code within about a minute, and the others continue", async () => {
  const { chat, all } = await start();
  const [bad] = [chat.send("bad"), chat.send("good")];
  const seconds = await until(() => all("sent").length, poisoned(refuse("api_error")));
  assert.deepEqual(all("failed").map(({ clientMessageId, code }) => [clientMessageId, code]), [[bad, "api_error"]]);
  assert.ok(seconds > 20 && seconds < 120, `${seconds} s`);
  assert.equal(chat.discard(bad), "bad");
  assert.deepEqual(chat.pending, []);
});

test("no message fails if the application is unavailable for five minutes", async () => {
  const { chat, all } = await start();
  for (const content of ["a", "b", "c"]) chat.send(content);
  const began = performance.now();
  await until(() => performance.now() > began + 300_000, refuse("api_unavailable", { retryAfter: 5 }));
  assert.deepEqual([all("failed"), chat.pending.length], [[], 3]);
  await until(() => all("sent").length == 3, (socket, command, n) => socket.ack(n));
});

test("a message for which the application is always unavailable fails in the end", async () => {
  const { chat, all } = await start();
  chat.send("bad");
  chat.send("good");
  const seconds = await until(() => all("sent").length, poisoned(refuse("api_unavailable")));
  assert.ok(seconds > 300 && seconds < 1_200, `${seconds} s`);
});

test("attempts are counted across reloads", async () => {
  const storage = new FakeStorage();
  for (let i = 0; i < 5; i++) {
    const { chat } = await start({ storage });
    if (!i) chat.send("bad");
    FakeSocket.last.greet();
    refuse("api_error")(FakeSocket.last, FakeSocket.last.messages[0]);
    assert.equal(chat.pending[0].status, "waiting");
    leave();
  }
  const { chat } = await start({ storage });
  FakeSocket.last.greet();
  refuse("api_error")(FakeSocket.last, FakeSocket.last.messages[0]);
  assert.equal(chat.pending[0].status, "failed");
});

for (const code of [1011, 1006]) {
  test(`a message on which the server repeatedly closes the socket (${code}) is given up`, async () => {
    const { chat, all } = await start();
    chat.send("bad");
    chat.send("good");
    await until(() => all("sent").length, poisoned((socket) => socket.end(code)));
    assert.deepEqual(all("failed").map((failure) => failure.code), ["outcome_unknown"]);
  });
}

test("a network that is lost repeatedly costs the message no attempts", async () => {
  const { chat, all } = await start();
  chat.send("x");
  for (let i = 0; i < 1_200; i++) {
    if (!FakeSocket.last.readyState && !FakeSocket.last.closed) FakeSocket.last.greet(); // nothing comes after it, no pong either
    await tick(1_000);
  }
  assert.ok(FakeSocket.all.length > 15);
  assert.deepEqual([all("failed"), chat.pending.length], [[], 1]);
});

test("a message that gets no answer on a live connection is given up after some connections", async () => {
  const { chat, all } = await start();
  chat.send("bad");
  chat.send("good");
  const seconds = await until(() => all("sent").length, poisoned(() => {}));
  assert.equal(all("failed")[0].code, "outcome_unknown");
  assert.ok(seconds < 300, `${seconds} s`);
});

test("an error without a key that is about a message fails the one in progress", async () => {
  for (const error of ["Failed to process message", "Missing content or role", "Content too long: 100,001 characters", "Invalid clientMessageId: expected a string of 1 to 64 characters"]) {
    reset();
    const { chat, all } = await start();
    FakeSocket.last.greet();
    chat.send("bad");
    chat.send("good");
    FakeSocket.last.say({ type: "error", error, code: "malformed", retryable: false });
    assert.equal(all("failed").length, 1, error);
    assert.equal(FakeSocket.last.messages[1].content, "good");
  }
});

test("an error about typing or an agent does not affect the message in progress", async () => {
  const { chat, all } = await start();
  FakeSocket.last.greet();
  chat.send("x");
  for (const error of ["Rate limit exceeded: typing_rate", "Failed to fetch agent info", "Failed to process agent_joined event"]) {
    FakeSocket.last.say({ type: "error", error, code: "rate_limited", retryable: true });
  }
  assert.equal(chat.pending[0].status, "sending");
  assert.equal(all("error").length, 3);
});

test("content that the server finds too long fails with that code, and is not truncated", async () => {
  const { chat, all } = await start();
  FakeSocket.last.greet();
  const id = chat.send("x".repeat(200_000));
  assert.equal(FakeSocket.last.messages[0].content.length, 200_000);
  FakeSocket.last.say({ type: "error", error: "Content too long: at most 100000 characters (max_content)", code: "content_too_long", retryable: false, clientMessageId: id });
  assert.equal(all("failed")[0].code, "content_too_long");
});

test("a failed message keeps its place; sent again it becomes the last", async () => {
  const { chat } = await start();
  FakeSocket.last.greet();
  const id = chat.send("a");
  const { at, after } = chat.pending[0];
  FakeSocket.last.say({ type: "error", error: "No", code: "forbidden", retryable: false, clientMessageId: id });
  chat.send("b");
  await tick(1_000);
  assert.deepEqual(chat.pending.map(({ content, status }) => [content, status]), [["a", "failed"], ["b", "sending"]]);
  assert.deepEqual([chat.pending[0].at, chat.pending[0].after], [at, after]);
  chat.retry(id);
  assert.deepEqual(chat.pending.map(({ content }) => content), ["b", "a"]);
  assert.ok(chat.pending[1].at > at);
});

test("after close, or once the application has closed the chat, send and retry say so", async () => {
  for (const end of [({ chat }) => chat.close(), () => FakeSocket.last.end(4003)]) {
    const started = await start();
    FakeSocket.last.greet();
    const id = started.chat.send("x");
    FakeSocket.last.say({ type: "error", error: "No", code: "forbidden", retryable: false, clientMessageId: id });
    end(started);
    assert.throws(() => started.chat.send("y"), /closed/);
    assert.throws(() => started.chat.retry(id), /closed/);
    assert.equal(started.chat.pending.length, 1);
  }
});

for (const code of ["api_unavailable", "api_busy", "api_timeout", "rate_limited", "session_ended"])
  test(`ten refusals with ${code}, which is not about the message, fail no message`, async () => {
    const { chat, all } = await start();
    chat.send("x");
    let left = 10;
    await until(() => all("sent").length, (socket, command, n) => (left-- > 0 ? refuse(code)(socket, command) : socket.ack(n)));
    assert.deepEqual(all("failed"), []);
  });

/** What happens to a message that was in progress when each of so many connections ended with this code. */
const ended = async (code, times) => {
  const { chat, all } = await start({ spread: 100 });
  chat.send("x");
  for (let i = 0; i < times; i++) {
    FakeSocket.last.greet();
    await tick(1_000);
    FakeSocket.last.end(code);
    for (let seconds = 0; FakeSocket.last.readyState == 3 && seconds < 30; seconds++) await tick(1_000);
  }
  return { failed: all("failed").map(({ code }) => code), waiting: chat.pending.filter(({ status }) => status != "failed").length };
};

for (const code of [1000, 1001, 1012, 4001, 4009, 4010])
  test(`connections that end with ${code} cost the message no attempts`, async () => {
    assert.deepEqual(await ended(code, 8), { failed: [], waiting: 1 });
  });

for (const code of [1002, 1003, 1007, 1011, 4000])
  test(`a message that ends its connection with ${code} three times is given up`, async () => {
    assert.deepEqual(await ended(code, 2), { failed: [], waiting: 1 });
    reset();
    assert.deepEqual(await ended(code, 3), { failed: ["outcome_unknown"], waiting: 0 });
  });

test("a message of an earlier version, which counted no attempts, is given up like any other", async () => {
  const storage = new FakeStorage();
  storage.setItem("eclipse-chat:c1", JSON.stringify({ out: [{ clientMessageId: "a", content: "bad", role: "USER", status: "waiting" }] }));
  const { chat, all } = await start({ storage });
  assert.equal(chat.pending[0].after, "");
  await until(() => all("failed").length, refuse("api_error"), 200);
});

test("an update is not a message: the next message comes after the last one", async () => {
  const { chat } = await start();
  FakeSocket.last.greet();
  FakeSocket.last.say(message("m1", "hello", "u2"));
  FakeSocket.last.say({ ...message("m0", "older", "u2"), type: "message_updated" });
  chat.send("x");
  assert.equal(chat.pending[0].after, "m1");
});

test("a history older than an event keeps the last message the last one", async () => {
  const { chat } = await start();
  FakeSocket.last.greet();
  FakeSocket.last.say(message("m3", "hello", "u2"));
  chat.history(["m1", "m2", "m3"].map((id) => ({ id, content: id, sender: { id: "u2" } })));
  chat.send("x");
  assert.equal(chat.pending[0].after, "m3");
});

test("an event is emitted once even if five hundred others came in between", async () => {
  const { all } = await start();
  FakeSocket.last.greet();
  for (let i = 0; i < 500; i++) FakeSocket.last.say(message(`m${i}`, "x", "u2"));
  FakeSocket.last.say(message("m0", "x", "u2"));
  assert.equal(all("message").length, 500);
});

test("retry of a message that has not failed returns nothing and sends nothing", async () => {
  const { chat } = await start();
  const waiting = chat.send("x");
  assert.equal(chat.retry(waiting), "");
  FakeSocket.last.greet();
  assert.equal(chat.retry(waiting), "");
  assert.deepEqual(chat.pending.map(({ clientMessageId, status }) => [clientMessageId, status]), [[waiting, "sending"]]);
  assert.equal(FakeSocket.last.messages.length, 1);
});
