// A server made of plain objects, and a clock that tests set.
import { mock } from "node:test";
import { connect } from "../../eclipse_ws/static/eclipse-chat.js";

let elapsed = 0;
performance.now = () => elapsed;

/** Take the timers over; `tick` moves them, the monotonic clock and the wall clock together. */
export function clock() {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"], now: 1_700_000_000_000 });
}

const breathe = () => new Promise((done) => setImmediate(done));

export async function tick(ms = 0) {
  for (let left = ms; left > 0; left -= 50) {
    const step = Math.min(50, left);
    elapsed += step;
    mock.timers.tick(step);
    await breathe();
  }
  await breathe();
  await breathe();
}

/** What `new WebSocket()` gives in these tests. */
export class FakeSocket {
  static all = [];
  static get last() {
    return FakeSocket.all.at(-1);
  }
  readyState = 0;
  sent = [];
  constructor(url, protocols) {
    if (FakeSocket.refuse) throw new Error(FakeSocket.refuse);
    this.url = new URL(url);
    this.protocols = protocols;
    FakeSocket.all.push(this);
  }
  send(text) {
    this.sent.push(JSON.parse(text));
  }
  close() {
    this.closed = true;
  }
  // -- what the server does
  say(event) {
    this.onmessage?.({ data: typeof event == "string" ? event : JSON.stringify({ timestamp: new Date().toISOString(), ...event }) });
  }
  greet(more = {}) {
    this.readyState = 1;
    this.say({ type: "connected", chatId: "c1", sessionId: "s1", cursor: "e.0", ...more });
  }
  greetLikeToday() {
    this.readyState = 1;
    this.say({ type: "connected", chatId: "c1" });
  }
  end(code, reason = "") {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }
  get messages() {
    return this.sent.filter(({ type }) => type == "message");
  }
  ack(n = -1, id = `m${Math.random()}`) {
    const { clientMessageId } = this.messages.at(n);
    this.say({ type: "ack", clientMessageId, id, cursor: "e.999", delivery: "published" });
    return id;
  }
}

export class FakeStorage {
  map = new Map();
  getItem(name) {
    return this.map.get(name) ?? null;
  }
  setItem(name, value) {
    this.map.set(name, value);
  }
}

export const message = (id, content, userId = "u1", more = {}) => ({
  type: "message",
  data: { id, content, role: "user", timestamp: "2026-01-01T00:00:00.000Z", sender: { id: userId, name: null, email: null, avatar: null } },
  ...more,
});

const open = [];

/** What a reload does to the clients of the page that is left: they say nothing more, and are forgotten. */
export function leave() {
  delete globalThis[Symbol.for("eclipse-chat")];
}

/** Close what earlier tests have left. */
export function reset() {
  for (const chat of open.splice(0)) chat.close();
  leave();
  FakeSocket.all = [];
  FakeSocket.refuse = undefined;
  clock();
}

/** A chat, and everything that it says from now on as [type, detail]. */
export function record(chat) {
  const heard = [];
  const dispatch = chat.dispatchEvent.bind(chat);
  chat.dispatchEvent = (event) => (heard.push([event.type, event.detail]), dispatch(event));
  return { chat, heard, names: () => heard.map(([type]) => type), all: (type) => heard.filter(([t]) => t == type).map(([, d]) => d) };
}

/** A client that is recorded. */
export async function start(options = {}) {
  let tokens = 0;
  const chat = connect({
    chatId: "c1",
    token: async () => ({ token: `t${++tokens}`, wsUrl: "ws://server/ws", userId: "u1" }),
    WebSocket: FakeSocket,
    storage: null,
    ...options,
  });
  open.push(chat);
  const recorded = record(chat);
  await tick();
  return recorded;
}
