import type { Row } from "./types.ts";

/** The rows of one chat, ordered by the application's clock, then by id: one order for everyone, whatever the path. */
export class Timeline {
  readonly order: Row[] = [];
  /** Whether the reader is at the end, and stays there when something is added. */
  following = true;
  /** id -> clientMessageId: a saved bubble stays the same element. */
  readonly names = new Map<string, string>();
  /** clientMessageId -> id, between the `ack` and the event. */
  readonly saved = new Map<string, string>();
  #rows = new Map<string, Row>();

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
  }

  /** An own message has got its id. */
  sent(clientMessageId: string, id: string): void {
    this.names.set(id, clientMessageId);
    if (!this.#rows.has(id)) this.saved.set(clientMessageId, id);
  }
}

const isBefore = (a: Row, b: Row): boolean => a.at < b.at || (a.at == b.at && a.key < b.key);
