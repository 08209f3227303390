import type { Outgoing, Row } from "./types.ts";

/** How many rows are in the page at a time; scrolling near an edge moves this window by half as many. */
const WINDOW = 120;

/** The rows of one chat, ordered by the application's clock, then by id: one order for everyone, whatever the path. */
export class Timeline {
  readonly order: Row[] = [];
  /** Whether the reader is at the end, and stays there when something is added. */
  following = true;
  #rows = new Map<string, Row>();
  #end = 0;
  /** id -> clientMessageId: a saved bubble stays the same element. */
  #names = new Map<string, string>();
  /** The same for what is taken for an echo, until the ack decides. */
  #echoes = new Map<string, string>();
  /** clientMessageId -> id, between the `ack` and the event. */
  #saved = new Map<string, string>();
  /** What was said here and is not yet known to be in `order`. */
  #unsent = new Map<string, Outgoing>();

  get(key: string): Row | undefined {
    return this.#rows.get(key);
  }

  /** Add a row, or put it in the place of the one with its key. */
  put(row: Row): void {
    const known = this.#rows.get(row.key);
    this.#rows.set(row.key, row);
    const order = this.order;
    if (known?.at == row.at) {
      order[order.indexOf(known)] = row;
      return;
    }
    if (known) order.splice(order.indexOf(known), 1);
    let i = order.length;
    while (i && !isBefore(order[i - 1]!, row)) i--;
    order.splice(i, 0, row);
    if (i < this.#end) this.#end++;
  }

  /** An own message has got its id. */
  sent(clientMessageId: string, id: string): void {
    this.#names.set(id, clientMessageId);
    if (!this.#rows.has(id)) this.#saved.set(clientMessageId, id);
  }

  /** What names a row's element: an echo is the bubble of the message that waits for its ack. */
  nameOf(row: Row): string {
    return this.#names.get(row.key) ?? this.#echoes.get(row.key) ?? row.key;
  }

  /** Whether the application has a row. */
  isOwn(row: Row): boolean {
    return !row.status;
  }

  /** The window's rows, what failed where it was written, and after the last one those that wait, in the order of writing. */
  visible(pending: readonly Outgoing[]): Row[] {
    if (this.following) this.#end = this.order.length;
    const start = Math.max(0, this.#end - WINDOW);
    const rows = this.order.slice(start, this.#end);
    const isAtEnd = this.#end == this.order.length;
    const waiting = new Map(pending.map((item) => [item.clientMessageId, item]));
    this.#echoes = new Map(pending.filter(({ id }) => id).map(({ id, clientMessageId }) => [id!, clientMessageId]));
    for (const [key, item] of new Map([...this.#unsent, ...waiting])) {
      const isWaiting = waiting.has(key);
      const id = isWaiting ? item.id : this.#saved.get(key);
      const isThere = id !== undefined && this.#rows.has(id);
      this.#unsent.set(key, item);
      if (isWaiting ? !isThere : id && !isThere) {
        const { content, code } = item;
        const row: Row = { key, at: Infinity, role: item.role.toLowerCase(), content, code, status: isWaiting ? item.status : "sent" };
        if (row.status == "failed") this.#putBack(rows, row, item, start > 0, isAtEnd);
        else if (isAtEnd) rows.push(row);
      } else if (!isWaiting) {
        this.#unsent.delete(key);
        this.#saved.delete(key);
      }
    }
    return rows;
  }

  /** Put a failed message where it was written: below the last message that was known then. */
  #putBack(rows: Row[], row: Row, { at, after }: Outgoing, isCut: boolean, isAtEnd: boolean): void {
    const known = this.#rows.get(after);
    let i = known ? rows.indexOf(known) + 1 : rows.findIndex((other) => other.at > at);
    if (known ? !i : isCut && !i) return; // it is outside of the window
    if (i < 0) i = rows.length;
    while (rows[i]?.status == "failed") i++;
    if (i == rows.length && !isAtEnd) return;
    row.at = known ? known.at : at;
    rows.splice(i, 0, row);
  }

  /** The reader has scrolled: move the window, and see whether they are at the end. All in pixels. */
  scrolled({ scrollTop, scrollHeight, clientHeight }: { scrollTop: number; scrollHeight: number; clientHeight: number }): void {
    const below = scrollHeight - scrollTop - clientHeight;
    const all = this.order.length;
    this.following = below < 60 && (this.following || this.#end == all);
    if (!this.following && scrollTop < 400 && this.#end > WINDOW) this.#end = Math.max(WINDOW, this.#end - WINDOW / 2);
    else if (below < 400) this.#end = Math.min(all, this.#end + WINDOW / 2);
  }
}

const isBefore = (a: Row, b: Row): boolean => a.at < b.at || (a.at == b.at && a.key < b.key);
