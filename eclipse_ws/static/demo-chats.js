// The chats that the agents' desk knows: asks the server for them again and again, and counts what is unread.

const EVERY = 2_000; // milliseconds from one answer to the next request
const SLOWEST = 10_000; // the same while requests fail
export const MOST = 2_000; // chats that are kept
const READ = "desk:read"; // in localStorage, so that all tabs agree: [chat, how many of its customer's messages were read]

/** The JSON at an address. Raises whatever keeps it from being that. */
export async function ask(url) {
  const answer = await fetch(url, { signal: AbortSignal.timeout(8_000) });
  if (!answer.ok) throw Error(`${url} answered ${answer.status}`);
  return answer.json();
}

/** Calls `changed` after every answer, failure, and change of what is read. */
export class Chats {
  /** Whether the last request was answered; undefined before the first one is. */
  reached = undefined;
  /** Where the chats begin that are not loaded yet; null if there are none, or MOST are known. */
  next = null;
  #changed;
  #known = new Map();
  #newest = 0; // the largest position at the last answer
  #read = new Map();
  #asking;
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
    document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(this.#timer) : this.poll()));
    addEventListener("online", () => this.poll());
    addEventListener("offline", () => {
      this.reached = false;
      changed();
    });
  }

  /** All of them, the latest first. */
  get all() {
    return [...this.#known.values()].sort((a, b) => b.position - a.position);
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

  /** Asks for the latest chats now, and from then on again and again; never twice at once, never for a hidden page. */
  poll() {
    clearTimeout(this.#timer);
    this.#asking ??= this.#round();
    return this.#asking;
  }

  /** Loads the chats that come after those that are known. Raises if that fails. */
  async more() {
    const from = this.next;
    const page = await ask(`/api/chats?before=${from}`);
    if (from != this.next) return; // the list was begun anew meanwhile
    for (const chat of page.chats) if (!this.#known.has(chat.id)) this.#known.set(chat.id, chat);
    this.next = page.next;
    this.#trim();
    this.#changed();
  }

  async #round() {
    const read = new Map(this.#read);
    try {
      const page = await ask("/api/chats");
      this.#take(page);
      // Fewer than were read before: another database, whose messages are new.
      for (const { id, received } of page.chats) if (received < read.get(id)) this.#keep(id, 0);
      this.reached = true;
      this.#failures = 0;
    } catch {
      this.reached = false;
      this.#failures++;
    }
    this.#asking = undefined;
    if (!document.hidden) {
      const wait = Math.min(SLOWEST, EVERY * 2 ** Math.max(0, this.#failures - 1));
      this.#timer = setTimeout(() => this.poll(), wait * (0.9 + Math.random() / 5));
    }
    this.#changed();
  }

  #take({ chats, next }) {
    const reach = next ?? -Infinity;
    // More has changed than one page tells (the page was hidden for long): begin anew, rather than leave a gap.
    const gap = reach > this.#newest;
    if (gap || next == null) this.next = next;
    for (const { id, position } of this.all) if (gap || position >= reach) this.#known.delete(id);
    for (const chat of chats) this.#known.set(chat.id, chat);
    this.#newest = chats[0]?.position ?? 0;
    this.#trim();
  }

  #trim() {
    if (this.#known.size < MOST) return;
    this.next = null;
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
