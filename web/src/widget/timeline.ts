import type { Outgoing, Row } from "./types.ts";

type Unsent = Omit<Outgoing, "status"> & Required<Pick<Row, "status">>;

/** The rows of one chat, ordered by the application's clock, then by id: one order for everyone, whatever the path. */
export class Timeline {
  readonly order: Row[] = [];
  /** Whether the reader is at the end, and stays there when something is added. */
  following = true;
  /** id -> clientMessageId: a saved bubble stays the same element. */
  readonly names = new Map<string, string>();
  /** What was said here and is not in the order so far, by its clientMessageId. */
  readonly unsent = new Map<string, Unsent>();
  #rows = new Map<string, Row>();

  get(key: string): Row | undefined {
    return this.#rows.get(key);
  }

  /** Add a row, or put it in the place of the one with its key. */
  put(row: Row): void {
    const known = this.#rows.get(row.key);
    this.#rows.set(row.key, row);
    this.forget(row.key);
    const order = this.order;
    if (known?.at == row.at) {
      order[order.indexOf(known)] = row;
      return;
    }
    if (known) order.splice(order.indexOf(known), 1);
    let i = order.length;
    while (i && !isBefore(order[i - 1]!, row)) i--;
    order.splice(i, 0, row);
  }

  /** The outbox has changed: what has left it stays only if it was saved. */
  said(pending: readonly Outgoing[]): void {
    for (const [name, { status }] of this.unsent) if (status != "sent") this.unsent.delete(name);
    for (const item of pending) this.unsent.set(item.clientMessageId, item);
  }

  /** An own message has got its id. */
  sent(name: string, id: string): void {
    const item = this.unsent.get(name);
    this.names.set(id, name);
    if (item && !this.#rows.has(id)) this.unsent.set(name, { ...item, id, status: "sent" });
  }

  /** A saved message is in the order, or was taken back. */
  forget(id: string): void {
    this.unsent.delete(this.names.get(id)!);
  }
}

const isBefore = (a: Row, b: Row): boolean => a.at < b.at || (a.at == b.at && a.key < b.key);
