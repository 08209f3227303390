import { TYPING_EXPIRY_MS } from "../client/typing.ts";
import { keep, recall } from "./storage.ts";

// A name that only makes noise must not fill the memory.
const LIMIT = 50;

const OWN = "eclipse-chat:users";
const MOST_OWN = 50;

/** The users that the tabs of this browser are known as: a visitor is another one in each tab, and after each reconnect. */
function ownUsers(): string[] {
  try {
    return [...JSON.parse(recall("localStorage", OWN)!)];
  } catch {
    return []; // there are none yet, or somebody else has written there
  }
}

export const isOwnUser = (userId: string): boolean => ownUsers().includes(userId);

export function addOwnUser(userId: string): void {
  const users = ownUsers();
  if (userId && !users.includes(userId)) keep("localStorage", OWN, JSON.stringify([...users, userId].slice(-MOST_OWN)));
}

/** Who is typing. */
export class Typists {
  readonly #timers = new Map<string, ReturnType<typeof setTimeout>>();
  readonly #changed: () => void;

  constructor(changed: () => void) {
    this.#changed = changed;
  }

  /** Who has been typing for the longest; undefined if nobody is. */
  get first(): string | undefined {
    return this.#timers.keys().next().value;
  }

  set(userId: string, isTyping: boolean): void {
    clearTimeout(this.#timers.get(userId));
    this.#timers.delete(userId);
    if (isTyping && this.#timers.size < LIMIT) this.#timers.set(userId, setTimeout(() => this.set(userId, false), TYPING_EXPIRY_MS));
    this.#changed();
  }

  clear(): void {
    for (const userId of [...this.#timers.keys()]) this.set(userId, false);
  }
}
