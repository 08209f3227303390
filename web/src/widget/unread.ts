import { keep, recall } from "./storage.ts";
import type { Row } from "./types.ts";

/** A message that is dated later than in so many milliseconds has a wrong date: it must not make what follows it read. */
const FUTURE = 86_400_000;
const isDated = ({ at }: Row): boolean => at < Date.now() + FUTURE;

export interface UnreadHooks {
  /** Whether `localStorage` remembers it; else this page alone does. */
  isKept(): boolean;
  /** Whether somebody looks at the end of the chat now. */
  isSeeing(): boolean;
  /** What others have written since then, in milliseconds since 1970. */
  rowsSince(at: number): Row[];
  /** The number is another one now. */
  counted(): void;
}

/**
 * What is unread in one chat. `localStorage` remembers, with one time per chat, up to where this browser's person has read;
 * an inline chat, which is an agent's, is remembered by the page alone.
 */
export class Unread {
  readonly #name: string;
  readonly #on: UnreadHooks;
  /** Everything up to then has been read, in milliseconds since 1970. It never goes back. */
  #at: number | undefined;
  #keys = new Set<string>();
  /** How many there are, as was last told. */
  count = 0;

  constructor(chatId: string, on: UnreadHooks) {
    this.#name = "eclipse-chat:read:" + chatId;
    this.#on = on;
  }

  /** Whether this browser has been in the chat before. */
  get isKnown(): boolean {
    return recall("localStorage", this.#name) != null;
  }

  /** Somebody else has just written this. */
  add(row: Row): void {
    if (this.#on.isSeeing()) return;
    this.#begin(row.at - 1);
    this.#keys.add(row.key);
    this.#count();
  }

  /** A message was taken back. */
  remove(key: string): void {
    this.#keys.delete(key);
    this.#count();
  }

  clear(): void {
    this.#keys.clear();
    this.#count();
  }

  /** The reader is at the end of these rows, and looks: everything has been read. */
  see(rows: Row[]): void {
    this.clear();
    this.#set(rows.findLast((row) => !row.isJoin && isDated(row))?.at);
  }

  /** The history is there. In a browser that is new to a chat, it counts for nothing. */
  loaded(history: Row[]): void {
    this.#begin(history.filter(isDated).reduce((latest, { at }) => Math.max(latest, at), 0));
    this.#reckon();
  }

  /** Another tab has read. */
  stored({ key, newValue }: StorageEvent): void {
    if (key != this.#name || !newValue) return;
    this.#adopt(newValue);
    if (!this.#on.isSeeing()) this.#keys.clear();
    this.#reckon();
  }

  /** Count what is unread by what the storage remembers. */
  #reckon(): void {
    if (this.#on.isSeeing()) return;
    for (const { key } of this.#on.rowsSince(this.#at ?? Infinity).filter(isDated)) this.#keys.add(key);
    this.#count();
  }

  #count(): void {
    const { size } = this.#keys;
    if (size == this.count) return;
    this.count = size;
    this.#on.counted();
  }

  /** Take what the storage remembers; if that is nothing, everything up to `at` has been read. */
  #begin(at: number): void {
    this.#adopt(recall("localStorage", this.#name));
    if (this.#at === undefined) this.#set(at);
  }

  #set(at: number | undefined): void {
    if (at === undefined || !(at > (this.#at ?? -1))) return;
    this.#at = at;
    if (this.#on.isKept()) keep("localStorage", this.#name, String(at));
  }

  /** Take what another page has stored. */
  #adopt(stored: string | null): void {
    if (stored != null && +stored > (this.#at ?? -1)) this.#at = +stored;
  }
}
