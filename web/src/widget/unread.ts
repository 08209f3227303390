import type { Conversation } from "./conversation.ts";
import type { Row } from "./types.ts";

/**
 * What is unread in one chat. `localStorage` remembers, with one time per chat, up to where this browser's person has read;
 * an inline chat, which is an agent's, is remembered by the page alone.
 */
export class Unread {
  readonly #name: string;
  readonly #isKept: () => boolean;
  readonly #changed: () => void;
  /** Everything up to then has been read, in milliseconds since 1970. It never goes back. */
  #at: number | undefined;
  #keys = new Set<string>();

  constructor(chatId: string, isKept: () => boolean, changed: () => void) {
    this.#name = "eclipse-chat:read:" + chatId;
    this.#isKept = isKept;
    this.#changed = changed;
  }

  get count(): number {
    return this.#keys.size;
  }

  /** Whether this browser has been in the chat before. */
  get isKnown(): boolean {
    return this.#stored() != null;
  }

  /** Somebody else has just written this, and nobody looks. */
  add(row: Row): void {
    if (!this.#adopt(this.#stored())) this.#set(row.at - 1);
    this.#keys.add(row.key);
    this.#changed();
  }

  /** A message was taken back. */
  remove(key: string): void {
    this.#keys.delete(key);
    this.#changed();
  }

  clear(): void {
    this.#keys.clear();
    this.#changed();
  }

  /** The reader is at the end of these rows, and looks: everything has been read. */
  see(rows: Row[]): void {
    this.clear();
    this.#set(rows.findLast((row) => !row.joined)?.at);
  }

  /** The history is there. In a browser that is new to a chat, it counts for nothing. */
  loaded(history: Row[], conversation: Conversation, isSeeing: boolean): void {
    if (!this.#adopt(this.#stored())) this.#set(history.reduce((latest, { at }) => Math.max(latest, at), 0));
    if (!isSeeing) this.#reckon(conversation);
  }

  /** Another tab has read. */
  stored({ key, newValue }: StorageEvent, conversation: Conversation | undefined, isSeeing: boolean): void {
    if (key != this.#name || !newValue) return;
    this.#adopt(newValue);
    if (isSeeing || !conversation) return;
    this.#keys.clear();
    this.#reckon(conversation);
  }

  /** Count what is unread by what the storage remembers. */
  #reckon(conversation: Conversation): void {
    for (const row of conversation.timeline.order)
      if (row.at > (this.#at ?? Infinity) && !row.joined && !row.isDeleted && !conversation.isMine(row)) this.#keys.add(row.key);
    this.#changed();
  }

  #stored(): string | null {
    try {
      return localStorage.getItem(this.#name);
    } catch {
      return null; // storage is forbidden
    }
  }

  #set(at: number | undefined): void {
    if (at === undefined || !(at > (this.#at ?? -1))) return;
    this.#at = at;
    try {
      if (this.#isKept()) localStorage.setItem(this.#name, String(at));
    } catch {} // storage is forbidden: this page alone remembers
  }

  /** Take what another page has stored. Answers whether it is known now up to where the person has read. */
  #adopt(stored: string | null): boolean {
    if (stored != null && +stored > (this.#at ?? -1)) this.#at = +stored;
    return this.#at !== undefined;
  }
}
