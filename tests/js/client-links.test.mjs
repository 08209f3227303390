// One connection after the other: late events of one must not affect the next one.
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { FakeSocket, message, reset, start, tick } from "./fake.mjs";

beforeEach(async () => {
  reset();
  await tick(50); // no browser's clock is at 0 when a page connects
});
afterEach(reset);

/** A client whose first link was given up for its silence, and whose second one is open. */
const replaced = async () => {
  const begun = await start();
  const first = FakeSocket.last;
  first.greet();
  await tick(41_000);
  assert.ok(first.closed);
  await tick(1_000);
  assert.equal(FakeSocket.all.length, 2);
  FakeSocket.last.greet();
  return { ...begun, first };
};

test("the late end of an abandoned connection does not end the next one", async () => {
  const { chat, first } = await replaced();
  first.end(1006);
  await tick(1_000);
  assert.equal(chat.state, "open");
  assert.equal(FakeSocket.all.length, 2);
});

test("late events of an abandoned connection are not emitted", async () => {
  const { all, first } = await replaced();
  const connections = all("connected").length;
  first.say(message("m1", "late", "u2"));
  first.greet();
  assert.deepEqual(all("message"), []);
  assert.equal(all("connected").length, connections);
});

test("a server that becomes unreachable is an error", async () => {
  const { all } = await start();
  FakeSocket.last.greet();
  FakeSocket.last.end(1006);
  assert.deepEqual(all("error"), []);
  await tick(1_000);
  assert.equal(FakeSocket.all.length, 2);
  FakeSocket.last.end(1006);
  assert.deepEqual(all("error").map(({ code }) => code), ["connect_failed"]);
});
