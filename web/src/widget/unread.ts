import type { Row } from "./types.ts";

/** Remembers in `localStorage`, one time per chat, up to where this browser's person has read. */
export class ReadMark {
  readonly #name: string;
  #at: number | undefined;

  constructor(chatId: string) {
    this.#name = "eclipse-chat:read:" + chatId;
  }

  /** Whether a change in the storage, made by another tab, is about this mark. */
  isNamed(key: string | null): boolean {
    return key == this.#name;
  }

  /** What the storage holds; null if this browser is new to the chat. */
  stored(): string | null {
    try {
      return localStorage.getItem(this.#name);
    } catch {
      return null; // storage is forbidden
    }
  }

  /** Everything up to that time has been read: milliseconds since 1970. It never goes back. */
  set(at: number | undefined, isKept: boolean): void {
    if (at === undefined || !(at > (this.#at ?? -1))) return;
    this.#at = at;
    try {
      if (isKept) localStorage.setItem(this.#name, String(at));
    } catch {} // storage is forbidden: this page alone remembers
  }

  /** Take what another page has stored. Answers whether the mark is known now. */
  adopt(stored: string | null): boolean {
    if (stored != null && +stored > (this.#at ?? -1)) this.#at = +stored;
    return this.#at !== undefined;
  }

  isBefore(row: Row): boolean {
    return this.#at !== undefined && row.at > this.#at;
  }
}

/** What all widgets of a page have put into its title, also those of another copy of this script. */
interface Counted {
  counts: Map<object, number>;
  shown: string;
  /** Titles with a number -> the page's own: pages keep a title, and set it again later. */
  made: Map<string, string>;
}

/** Put the number of unread messages of all widgets in front of the page's title, and take the last one away. */
export function countInTitle(widget: object, n: number): void {
  const all: Record<symbol, Counted | undefined> = globalThis as never;
  const shared = (all[Symbol.for("eclipse-chat-title")] ??= { counts: new Map(), shown: "", made: new Map() });
  const { counts, made, shown } = shared;
  if (n) counts.set(widget, n);
  else counts.delete(widget);
  const { title } = document;
  const own = made.get(title) ?? (shown && title.startsWith(shown) ? title.slice(shown.length).trim() : title);
  const sum = [...counts.values()].reduce((a, b) => a + b, 0);
  shared.shown = sum ? `(${sum})` : "";
  const next = `${shared.shown} ${own}`.trim();
  if (sum) made.set(next, own);
  if (made.size > 50) made.delete(made.keys().next().value!);
  if (next != title) document.title = next;
}
