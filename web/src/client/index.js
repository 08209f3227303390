// @ts-nocheck
// A chat client that never loses a message. Public names are documented in eclipse-chat.d.ts.

const BEAT = 20_000;
const OLD = 240_000; // the server knows a clientMessageId for five minutes
const UNKNOWN = "outcome_unknown";
const { document: page, location } = /** @type {any} */ (globalThis);

const clock = () => performance.now();
const fresh = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");

/** @param {any} options */
export const connect = (options) => new EclipseChat(options);

export class EclipseChat extends EventTarget {
  state = "connecting";
  userId = "";
  sessionId = ""; // today's server sends none
  #o;
  #ws;
  #t = {};
  #out = [];
  #mine = []; // a visitor gets a new userId with every token
  #joining;
  #seen = new Set();
  #turn = 0;
  #since = clock(); // of the outage
  #held = false; // nothing may hurry us
  #cursor = "";
  #last = "";
  #opened = 0;
  #tried = 0;
  #refreshAt = 0;
  #credit = 10;
  #credited = 0;
  #typed = 0;
  #wake = ({ type }) => {
    if (page?.hidden && type != "online") return;
    this.#hurry();
    this.#probe(this.#head ? 25_000 : 5_000);
  };

  /** @param {any} options */
  constructor(options) {
    super();
    let storage;
    try {
      storage = sessionStorage; // may throw
    } catch {}
    const o = (this.#o = { role: "USER", storage, spread: 20_000, limit: 1000, WebSocket: globalThis.WebSocket, ...options });
    if (!o.tokenUrl && !o.token) throw new TypeError("connect() needs tokenUrl or token");
    if (!o.WebSocket) throw new TypeError("No WebSocket here: pass one to connect()");
    try {
      const kept = JSON.parse(o.storage.getItem(this.#key));
      this.#out = kept.out.map((i) => ({ ...i, status: i.status == "failed" ? i.status : "waiting" }));
      this.#mine = [...kept.mine];
    } catch {}
    this.#listen("add");
    this.#t.beat = setInterval(() => this.#beat(), BEAT);
    this.#t.beat.unref?.();
    this.#open();
  }

  get pending() {
    return this.#out.map((item) => ({ ...item }));
  }

  /** @param {string} content */
  send(content, role = this.#o.role) {
    if (!content.trim()) throw new TypeError("A message needs some text");
    if (this.#out.length >= this.#o.limit) throw new RangeError("Too many messages are waiting");
    return this.#queue({ clientMessageId: fresh(), content, role });
  }

  /** @param {string} id */
  retry(id) {
    const item = this.#out.find((i) => i.clientMessageId == id && i.status == "failed");
    if (!item) return "";
    this.#out = this.#out.filter((i) => i != item);
    // An outcome that is unknown stays so under its name.
    return this.#queue({ ...item, clientMessageId: item.code == UNKNOWN ? fresh() : id, sent: 0 });
  }

  /** @param {string} id */
  discard(id) {
    this.#out = this.#out.filter((i) => i.clientMessageId != id || i.status == "sending");
    this.#changed();
  }

  typing(on = true) {
    clearTimeout(this.#t.typing);
    if (on) this.#t.typing = setTimeout(() => this.typing(false), 4_000);
    if (this.state != "open" || (on ? this.#typed && clock() - this.#typed < 2_500 : !this.#typed)) return;
    this.#typed = on ? clock() : 0;
    this.#put({ type: "typing", isTyping: on });
  }

  joined(agent = {}) {
    this.#joining = { type: "agent_joined", ...agent };
    this.#join();
  }

  /** @param {string} messageId */
  read(messageId) {
    if (this.sessionId) this.#put({ type: "read", messageId });
  }

  /** @param {any[]} messages */
  history(messages) {
    const taken = new Set();
    for (const item of this.#out.filter((i) => i.code == UNKNOWN)) {
      // Only what came after it can be it.
      const at = messages.findIndex((m) => m.id == item.after);
      const found = (at >= 0 || !item.after) && messages.slice(at + 1).find((m) => !taken.has(m.id) && this.#own(m, item));
      if (found) this.#settle(item, found), taken.add(found.id);
    }
    for (const m of messages.slice(-500)) this.#new(`message ${(this.#last = m.id)} `);
  }

  /** @param {string} type @param {(detail: any) => void} listener */
  on(type, listener) {
    const wrapped = (e) => listener(e.detail);
    this.addEventListener(type, wrapped);
    return () => this.removeEventListener(type, wrapped);
  }

  close(code = 1000, reason = "") {
    this.#drop();
    clearInterval(this.#t.beat);
    clearTimeout(this.#t.typing);
    this.#listen("remove");
    this.#set("closed", { code, reason });
  }

  get #key() {
    return "eclipse-chat:" + (this.#o.chatId ?? this.#o.tokenUrl);
  }

  get #head() {
    return this.#out.find((i) => i.status == "sending");
  }

  #listen(how) {
    page?.[how + "EventListener"]("visibilitychange", this.#wake);
    for (const type of ["online", "offline", "pageshow"]) globalThis[how + "EventListener"]?.(type, this.#wake);
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #set(state, why) {
    if (state != this.state) this.#emit("state", { state: (this.state = state), ...why });
  }

  #put(command) {
    if (this.state == "open") this.#ws.send(JSON.stringify(command));
  }

  #changed() {
    try {
      this.#o.storage.setItem(this.#key, JSON.stringify({ out: this.#out, mine: this.#mine }));
    } catch {}
    this.#emit("outbox", this.pending);
  }

  #new(id) {
    if (this.#seen.has(id)) return false;
    this.#seen.add(id);
    if (this.#seen.size > 1000) this.#seen.delete(this.#seen.values().next().value);
    return true;
  }

  #own(message, item) {
    return this.#mine.includes(message.sender?.id) && message.content?.trim() == item.content.trim();
  }

  #queue(item) {
    this.#out.push({ ...item, status: "waiting" });
    this.#typed = 0;
    this.#changed();
    this.#hurry();
    this.#flush();
    return item.clientMessageId;
  }

  #settle(item, { id, delivery }) {
    this.#out = this.#out.filter((i) => i != item);
    this.#emit("sent", { clientMessageId: item.clientMessageId, id, delivery });
    this.#changed();
    this.#flush();
  }

  #fail(item, error, code = UNKNOWN, retryable = false) {
    Object.assign(item, { status: "failed", code, id: undefined });
    this.#emit("failed", { error, code, retryable, clientMessageId: item.clientMessageId });
    this.#changed();
    if (code == UNKNOWN) this.#emit("reload", { reason: code });
    this.#flush();
  }

  async #grant() {
    const { token, tokenUrl, chatId, fetch: ask = fetch } = this.#o;
    const signal = AbortSignal.timeout(10_000);
    const get = async () => {
      if (!tokenUrl) return token({ signal });
      const url = new URL(tokenUrl, location?.href);
      if (chatId != null) url.searchParams.set("chatId", chatId);
      const answer = await ask(url, { signal, cache: "no-store" });
      if (answer.ok) return answer.json();
      throw Object.assign(Error(`The token URL answered ${answer.status}`), { wait: +answer.headers.get("retry-after") || 0 });
    };
    const late = new Promise((_, no) => signal.addEventListener("abort", () => no(Error("No token in 10 s"))));
    const grant = await Promise.race([get(), late]);
    if (!grant?.token) throw Error("The token URL answered without a token");
    return grant;
  }

  async #open() {
    this.#drop();
    const turn = this.#turn;
    const o = this.#o;
    this.#tried = clock();
    this.#set("connecting");
    try {
      const { token, wsUrl, userId } = await this.#grant();
      if (turn != this.#turn) return;
      this.userId = userId;
      if (!this.#mine.includes(userId)) this.#mine = [...this.#mine.slice(-19), userId];
      const url = new URL(o.url ?? wsUrl, location?.href);
      url.protocol = url.protocol.replace("http", "ws");
      const query = { token: !o.subprotocol && token, cursor: this.#cursor, events: o.events };
      for (const [name, value] of Object.entries(query)) if (value) url.searchParams.set(name, value);
      const ws = (this.#ws = new o.WebSocket(url.href, o.subprotocol ? ["eclipse.v1", "bearer." + token] : []));
      ws.onmessage = (e) => this.#frame(e.data);
      ws.onclose = (e) => this.#closed(e.code, e.reason);
      ws.onerror = () => {};
      this.#burn(15_000);
    } catch (/** @type {any} */ e) {
      if (turn != this.#turn) return;
      this.#emit("error", { error: e.message, code: "connect_failed", retryable: true });
      this.#retry({}, e.wait);
    }
  }

  #drop() {
    const ws = this.#ws;
    const head = this.#head;
    this.#turn++;
    for (const name of ["retry", "fuse", "pace"]) this.#t[name] = clearTimeout(this.#t[name]);
    this.#ws = undefined;
    this.#typed = 0;
    if (head) head.status = "waiting";
    if (ws) {
      ws.onmessage = ws.onclose = null;
      ws.close();
    }
  }

  #closed(code, reason) {
    const head = this.#head;
    const at = clock();
    const spread = code == 1012 ? this.#o.spread : code == 4010 ? this.#o.spread / 4 : 0;
    if (this.#opened) this.#since = at - this.#opened > 10_000 ? at : Math.max(this.#since, at - 4_000);
    this.#opened = 0;
    if (code == 4003) return this.close(code, reason);
    this.#drop();
    this.#retry({ code, reason }, code == 4009 ? 5 : 0, spread);
    if (code == 1009 && head) this.#fail(head, "The message is too long", "too_long");
  }

  #retry(why, least = 0, spread = 0) {
    const retryIn = Math.min(least, 600) * 1000 + Math.random() * (spread || Math.min(20_000, Math.max(500, clock() - this.#since)));
    if (spread) this.#since = clock() + retryIn - 8_000;
    this.#held = least > 0;
    this.#t.retry = setTimeout(() => this.#open(), retryIn);
    this.#set("waiting", { ...why, retryIn });
  }

  #hurry() {
    if (this.state != "waiting" || this.#held) return;
    this.#since = clock();
    const early = this.#tried + 1000 - this.#since;
    if (early < 0) return this.#open();
    clearTimeout(this.#t.retry);
    this.#t.retry = setTimeout(() => this.#open(), early);
  }

  #burn(ms) {
    this.#t.fuse ||= setTimeout(() => this.#closed(0, "No answer"), ms);
  }

  #probe(ms) {
    if (this.state != "open" || this.#t.fuse) return;
    this.#put({ type: "ping" });
    this.#burn(ms);
  }

  // Compares clocks: a background tab's slow timers do no harm.
  #beat() {
    if (this.state != "open") return;
    const head = this.#head;
    if (head && Date.now() - head.sent > 45_000) {
      if (this.sessionId) return this.#closed(0, "No acknowledgement");
      this.#fail(head, "No confirmation from the server");
    }
    this.#probe(BEAT);
    if (this.#refreshAt && clock() > this.#refreshAt) this.#refresh();
  }

  async #refresh() {
    const turn = this.#turn;
    this.#refreshAt = clock() + BEAT;
    const { token, userId } = await this.#grant().catch(() => ({}));
    if (turn != this.#turn || !token) return;
    // Another user (a visitor's): the session ends in its time, and is resumed.
    if (userId == this.userId) this.#put({ type: "refresh", token });
    else this.#refreshAt = 0;
  }

  #join() {
    if (this.state == "open" && this.#joining) this.#put(this.#joining), (this.#joining = 0);
  }

  #flush() {
    const item = this.#out.find((i) => i.status == "waiting");
    // One at a time: for the order, and for answers without a name.
    if (!item || this.state != "open" || this.#head || this.#t.pace) return;
    const at = clock();
    this.#credit = Math.min(10, this.#credit + (at - this.#credited) / 125);
    this.#credited = at;
    if (this.#credit < 1) return this.#pause(125);
    this.#credit--;
    const resend = !!item.sent || undefined;
    Object.assign(item, { status: "sending", resend, after: resend ? item.after : this.#last, sent: Date.now(), code: "" });
    this.#changed();
    const { clientMessageId, content, role } = item;
    this.#put({ type: "message", content, role, clientMessageId, resend });
  }

  #pause(ms) {
    this.#t.pace = setTimeout(() => {
      this.#t.pace = 0;
      this.#flush();
    }, ms);
  }

  #frame(text) {
    let event;
    try {
      event = JSON.parse(text);
    } catch {}
    if (!event?.type) return;
    const { type, data, cursor, code, clientMessageId } = event;
    const head = this.#head;
    const named = clientMessageId && this.#out.find((i) => i.clientMessageId == clientMessageId);
    this.#t.fuse = clearTimeout(this.#t.fuse);
    // An ack may overtake events: its cursor is none to resume from.
    if (cursor && type != "ack") this.#cursor = cursor;
    if (event.expiresAt) this.#refreshAt = clock() + (Date.parse(event.expiresAt) - Date.parse(event.timestamp)) * 0.9;
    if (type == "connected") {
      this.sessionId = event.sessionId;
      this.#opened = clock();
      const lost = this.#out.filter((i) => i.sent && i.status == "waiting" && (!this.sessionId || Date.now() - i.sent > OLD));
      for (const i of lost) this.#fail(i, "The connection was lost before a confirmation");
      this.#set("open");
      this.#emit(type, event);
      if (!event.recovered) this.#emit("reload", { reason: type });
      this.#join();
      this.#flush();
    } else if (type == "ack") {
      if (named) this.#settle(named, event);
    } else if (type == "error") {
      const { error, retryable, retryAfter = 2 } = event;
      const item = clientMessageId ? named : code ? retryable && head : /send|content/.test(error) && head;
      if (!item || (code == UNKNOWN && !item.resend) || !retryable) item ? this.#fail(item, error, code ?? "failed", retryable) : this.#emit(type, event);
      else {
        Object.assign(item, { status: "waiting", id: undefined, sent: item.resend && item.sent });
        this.#emit(type, event);
        this.#changed();
        this.#pause((retryAfter + Math.random() / 2) * 1000);
      }
    } else if (type == "message" || type == "message_updated") {
      if (!data?.id || !this.#new(`${type} ${data.id} ${data.updatedAt ?? ""}`)) return;
      this.#last = data.id;
      // The ack decides, or the echo where there is none.
      if (head && type == "message" && this.#own(data, head)) head.id = data.id;
      this.#emit(type, event);
      if (head?.id == data.id && !this.sessionId) this.#settle(head, data);
    } else this.#emit(/^(typing|agent_joined|presence|read|pong)$/.test(type) ? type : "event", event);
  }
}
