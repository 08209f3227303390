// The chats that the agents' desk knows: loaded once, then kept up to date by the events of the agents' inbox; and what is unread in them.

const SLOWEST = 10_000; // milliseconds until a failed request is sent again, at most
const PAGE = 200; // closed chats, or results of a search, that are loaded at once
export const MOST = 2_000; // chats that are kept
const READ = "desk:read"; // in localStorage, so that all tabs agree: [chat, how many of its customer's messages were read]
const KINDS = /^chat_(opened|updated|assigned|closed)$/;

/** The JSON at an address. Raises whatever keeps it from being that. */
export async function ask(url, options) {
  const answer = await fetch(url, { signal: AbortSignal.timeout(8_000), ...options });
  if (!answer.ok) throw Error(`${url} answered ${answer.status}`);
  return answer.json();
}

/** Calls `changed` after every answer, failure, event, and change of what is read. */
export class Chats {
  /** Whether the open chats are known; undefined before the first answer, false after a failure. */
  reached = undefined;
  /** Where the closed chats begin that are not loaded yet; null if there are none, undefined before they are asked for. */
  next = undefined;
  /** The ids of the chats in which the text is found that was searched for last; null without one. */
  found = null;
  query = "";
  #changed;
  #known = new Map();
  #read = new Map();
  #isAsking = false;
  #isDue = false;
  #heard = new Set(); // chats of which an event came since the last request
  #failures = 0;
  #timer;

  constructor(changed) {
    this.#changed = changed;
    this.#recall();
    addEventListener("storage", ({ key }) => {
      if (key != READ) return;
      this.#recall();
      changed();
    });
    addEventListener("online", () => this.load());
    addEventListener("offline", () => {
      this.reached = false;
      changed();
    });
  }

  /** All of them, the latest first. */
  get all() {
    return [...this.#known.values()].sort((a, b) => b.position - a.position);
  }

  get(id) {
    return this.#known.get(id);
  }

  /** What the customer has written since an agent answered, or this browser showed the chat. */
  unread({ id, received, answered }) {
    return Math.max(0, received - Math.max(answered, this.#read.get(id) ?? 0));
  }

  /** Counts as read what the chat has now. */
  see(id) {
    const chat = this.#known.get(id);
    if (!chat || !this.unread(chat)) return;
    this.#recall(); // what other tabs have stored
    this.#keep(id, chat.received);
  }

  /** Takes an event of the inbox. Answers the chat, if it is news, and what it was before. */
  hear({ type, data }) {
    if (!KINDS.test(type) || !data?.chatId) return;
    const { chatId, ...rest } = data;
    const before = this.#known.get(chatId);
    this.#heard.add(chatId);
    if (!this.#take({ ...rest, id: chatId })) return;
    this.#trim();
    this.#changed();
    return { chat: this.#known.get(chatId), before };
  }

  /** Changes a chat on the server; the inbox tells all desks, this one among them. Raises if that fails. */
  async change(id, what, body = {}) {
    const { chat } = await ask(`/api/chats/${encodeURIComponent(id)}/${what}`, { method: "POST", body: JSON.stringify(body) });
    this.#take(chat);
    this.#changed();
  }

  /** Loads the open chats, all of them, and again until that succeeds; never twice at once. */
  async load() {
    clearTimeout(this.#timer);
    this.#isDue = true;
    if (this.#isAsking) return;
    this.#isAsking = true;
    while (this.#isDue) await this.#round();
    this.#isAsking = false;
  }

  async #round() {
    this.#isDue = false;
    this.#heard.clear();
    const read = new Map(this.#read);
    try {
      const listed = new Map();
      for (let page, from = ""; from != null && listed.size < MOST; from = page.next) {
        page = await ask(`/api/chats?status=open&limit=1000${from && `&before=${from}`}`);
        for (const chat of page.chats) listed.set(chat.id, chat);
      }
      // What is not listed any more was closed, or is gone: unless it came meanwhile.
      for (const { id, status } of this.all) if (status != "closed" && !listed.has(id) && !this.#heard.has(id)) this.#known.delete(id);
      for (const chat of listed.values()) {
        this.#take(chat);
        // Fewer than were read before: another database, whose messages are new.
        if (chat.received < read.get(chat.id)) this.#keep(chat.id, 0);
      }
      this.#trim();
      if (this.next !== undefined) this.next = undefined; // closed ones may have been missed, too
      this.reached = true;
      this.#failures = 0;
    } catch {
      this.reached = false;
      this.#timer = setTimeout(() => this.load(), Math.min(SLOWEST, 2_000 * 2 ** this.#failures++) * (0.9 + Math.random() / 5));
    }
    this.#changed();
  }

  /** Loads closed chats: the latest, then those that come after them. Raises if that fails. */
  async more() {
    const from = this.next;
    const page = await ask(`/api/chats?status=closed&limit=${PAGE}${from == null ? "" : `&before=${from}`}`);
    if (from !== this.next) return; // the list was loaded anew meanwhile
    for (const chat of page.chats) this.#take(chat);
    this.next = page.next;
    this.#trim();
    this.#changed();
  }

  /** Searches in all chats; without a text the search ends. Raises if it fails. */
  async search(query) {
    this.query = query;
    if (!query) this.found = null;
    else {
      const page = await ask(`/api/chats?limit=${PAGE}&query=${encodeURIComponent(query)}`);
      if (query != this.query) return; // somebody has gone on typing
      for (const chat of page.chats) this.#take(chat);
      this.found = new Set(page.chats.map(({ id }) => id));
    }
    this.#changed();
  }

  // Events and answers overtake each other: the chat's revision says which is newer. In a new database it begins again.
  #take(chat) {
    const known = this.#known.get(chat.id);
    if (known && known.revision >= chat.revision && known.updatedAt >= chat.updatedAt) return false;
    this.#known.set(chat.id, chat);
    return true;
  }

  #trim() {
    if (this.#known.size <= MOST) return;
    this.next &&= null;
    for (const { id } of this.all.slice(MOST)) this.#known.delete(id);
  }

  #keep(id, count) {
    this.#read.delete(id); // the latest come last
    this.#read.set(id, count);
    try {
      localStorage.setItem(READ, JSON.stringify([...this.#read].slice(-MOST)));
    } catch {} // storage is forbidden or full: remembered until the page is left
  }

  #recall() {
    try {
      for (const [id, count] of JSON.parse(localStorage.getItem(READ)) ?? []) this.#read.set(id, Math.max(count, this.#read.get(id) ?? 0));
    } catch {}
  }
}
