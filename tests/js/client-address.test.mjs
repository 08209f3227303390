// The token and the server's address: whatever the application answers, the page gets a named error, and nothing leaks.
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { FakeSocket, reset, start, tick } from "./fake.mjs";

beforeEach(reset);

const answering = (status, body, more = {}) => ({
  token: undefined,
  tokenUrl: "https://app/t",
  fetch: async () => ({ ok: status < 400, status, headers: new Headers(more.headers), redirected: !!more.redirected, json: async () => JSON.parse(body) }),
});
const withUrl = (wsUrl) => ({ token: async () => ({ token: "t", userId: "u", wsUrl }) });

for (const wsUrl of [undefined, null, "", "undefined", "chat.example.com/ws", "localhost:8000/ws", "//chat.example.com/ws", "/ws/", "ws:", "ws://", "ftp://x", "javascript:1", 7]) {
  test(`no socket is opened to ${JSON.stringify(wsUrl)}, wherever it comes from`, async () => {
    for (const options of [withUrl(wsUrl), { ...withUrl("wss://server/ws"), url: wsUrl }]) {
      if (options.url === null || ("url" in options && options.url === undefined)) continue;
      reset();
      globalThis.location = new URL("http://page.example.com/shop");
      try {
        const { all, chat } = await start(options);
        assert.deepEqual([FakeSocket.all.length, all("error").length], [0, 1]);
        assert.equal(all("error")[0].code, "bad_url");
        assert.equal(all("error")[0].retryable, false);
        await tick(300_000);
        assert.equal(FakeSocket.all.length, 0);
        assert.notEqual(chat.state, "closed");
      } finally {
        delete globalThis.location;
      }
    }
  });
}

test("http and https addresses, and the fragment of one, become what a socket takes", async () => {
  for (const [given, href] of [["http://a/ws", "ws://a/ws?token=t"], ["HTTPS://a/ws#x", "wss://a/ws?token=t"], ["  wss://a ", "wss://a/?token=t"]]) {
    reset();
    await start(withUrl(given));
    assert.equal(FakeSocket.last.url.href, href);
  }
});

test("a secure page connects to no insecure address other than this machine", async () => {
  globalThis.location = new URL("https://page.example.com/");
  try {
    for (const [given, opens] of [["ws://chat.example.com", 0], ["http://10.0.0.1", 0], ["ws://localhost:8000", 1], ["ws://127.0.0.1/ws", 1], ["ws://[::1]:80/", 1], ["ws://app.localhost", 1], ["wss://chat.example.com", 1], ["ws://localhost.evil.example", 0], ["ws://evil-localhost", 0], ["ws://127.evil.example", 0], ["ws://10.127.0.1", 0], ["ws://[2001:db8::1]", 0]]) {
      reset();
      const { all } = await start(withUrl(given));
      assert.equal(FakeSocket.all.length, opens, given);
      assert.deepEqual(all("error").map(({ code }) => code), opens ? [] : ["bad_url"], given);
    }
  } finally {
    delete globalThis.location;
  }
});

for (const [status, code] of [[401, "token_refused"], [403, "token_refused"], [404, "token_not_found"], [500, "token_failed"]]) {
  test(`a token URL that answers ${status} is reported at once as ${code}`, async () => {
    const { all } = await start(answering(status, "{}"));
    assert.deepEqual(all("error").map((error) => [error.code, error.retryable]), [[code, code == "token_failed"]]);
  });
}

test("a refused token is requested again after growing waits of at most a minute, at once if somebody writes", async () => {
  let status = 403;
  let asked = 0;
  const fetch = async () => (asked++, { ok: status < 400, status, headers: new Headers(), json: async () => ({ token: "t", wsUrl: "wss://server" }) });
  const { chat, all } = await start({ token: undefined, tokenUrl: "https://app/t", fetch });
  await tick(600_000);
  const waits = all("state").filter(({ state }) => state == "waiting").map(({ retryIn }) => retryIn);
  assert.ok(waits.length > 8 && waits.length < 30, `${waits.length} attempts in ten minutes`);
  assert.ok(waits[0] <= 2_000 && Math.max(...waits) <= 60_000 && Math.max(...waits) > 30_000);
  status = 200;
  const before = asked;
  chat.send("signed in");
  await tick(1_100);
  assert.ok(asked > before);
  assert.equal(FakeSocket.all.length, 1);
});

test("an answer without a token, or without JSON, is reported by name", async () => {
  for (const [body, more, text] of [
    ['{"token":""}', {}, /No token/],
    ['{"token":7}', {}, /No token/],
    ['{"token":{}}', {}, /No token/],
    ["<!doctype html>", { headers: { "content-type": "text/html" } }, /text\/html.*JSON/],
    ["<!doctype html>", { headers: { "content-type": "text/html" }, redirected: true }, /after a redirect/],
  ]) {
    reset();
    const { all } = await start(answering(200, body, more));
    assert.equal(all("error")[0].code, "token_failed");
    assert.match(all("error")[0].error, text);
  }
});

test("a redirect to another origin, which a page sees as a lost network, is reported as a possible redirect", async () => {
  const { all } = await start({ token: undefined, tokenUrl: "https://app/t", fetch: async () => { throw new TypeError("Failed to fetch"); } });
  assert.match(all("error")[0].error, /redirects to another origin: Failed to fetch/);
});

test("a token function's own refusal has the code of its status", async () => {
  const { all } = await start({ token: async () => { throw Object.assign(new Error("Sign in first"), { status: 401 }); } });
  assert.deepEqual(all("error")[0], { error: "Sign in first", code: "token_refused", retryable: false });
});

test("a server that closes before its greeting is reported, too", async () => {
  const { all } = await start();
  FakeSocket.last.end(4002, "Invalid token");
  assert.deepEqual(all("error"), [{ error: "Could not connect (4002 Invalid token). The server's log may say why", code: "connect_failed", retryable: true }]);
});

test("a listener may close the chat at whatever it hears", async () => {
  for (const type of ["state", "error", "outbox"]) {
    reset();
    const { chat } = await start({ token: () => new Promise((_, fail) => setTimeout(fail, 100, new Error("down"))) });
    chat.on(type, () => chat.close());
    await tick(60_000);
    assert.equal(chat.state, "closed");
    assert.equal(FakeSocket.all.length, 0);
  }
});

test("a token is never taken from the browser's cache", async () => {
  const asked = [];
  await start({ token: undefined, tokenUrl: "http://app/token", fetch: async (url, options) => (asked.push(options), Response.json({ token: "t", wsUrl: "ws://server" })) });
  assert.deepEqual(asked.map(({ cache }) => cache), ["no-store"]);
});
