import type { Timeline } from "./timeline.ts";
import type { Outgoing, Row } from "./types.ts";

/** How many rows are in the page at a time; scrolling near an edge moves this excerpt by half as many. */
const SIZE = 120;

/** The rows of a timeline that are in the page, and what waits to be sent or failed. */
export class Excerpt {
  readonly timeline: Timeline;
  /** The key of its last row: rows before it come later, too. */
  #last: string | undefined;
  /** The same as the timeline's names for what is taken for an echo, until the ack decides. */
  #echoes = new Map<string, string>();
  /** What was said here and is not yet known to be in the timeline. */
  #unsent = new Map<string, Outgoing>();

  constructor(timeline: Timeline) {
    this.timeline = timeline;
  }

  get #end(): number {
    return this.timeline.order.findLastIndex(({ key }) => key == this.#last) + 1;
  }

  set #end(end: number) {
    this.#last = this.timeline.order[end - 1]?.key;
  }

  /** What names a row's element: an echo is the bubble of the message that waits for its ack. */
  nameOf({ key }: Row): string {
    return this.timeline.names.get(key) ?? this.#echoes.get(key) ?? key;
  }

  /** Its rows, what failed where it was written, and after the last one those that wait, in the order of writing. */
  visible(pending: readonly Outgoing[]): Row[] {
    const { order, following, saved } = this.timeline;
    if (following) this.#end = order.length;
    const end = this.#end;
    const start = Math.max(0, end - SIZE);
    const rows = order.slice(start, end);
    const isAtEnd = end == order.length;
    const waiting = new Map(pending.map((item) => [item.clientMessageId, item]));
    this.#echoes = new Map(pending.filter(({ id }) => id).map(({ id, clientMessageId }) => [id!, clientMessageId]));
    for (const [key, item] of new Map([...this.#unsent, ...waiting])) {
      const isWaiting = waiting.has(key);
      const id = isWaiting ? item.id : saved.get(key);
      const isThere = id !== undefined && !!this.timeline.get(id);
      this.#unsent.set(key, item);
      if (isWaiting ? !isThere : id && !isThere) {
        const { content, code } = item;
        const row: Row = { key, at: Infinity, role: item.role.toLowerCase(), content, code, status: isWaiting ? item.status : "sent" };
        if (row.status == "failed") this.#putBack(rows, row, item, start > 0, isAtEnd);
        else if (isAtEnd) rows.push(row);
      } else if (!isWaiting) {
        this.#unsent.delete(key);
        saved.delete(key);
      }
    }
    return rows;
  }

  /** Put a failed message where it was written: below the last message that was known then. */
  #putBack(rows: Row[], row: Row, { at, after }: Outgoing, isCut: boolean, isAtEnd: boolean): void {
    const known = this.timeline.get(after);
    let i = known ? rows.indexOf(known) + 1 : rows.findIndex((other) => other.at > at);
    if (known ? !i : isCut && !i) return; // it is outside of the excerpt
    if (i < 0) i = rows.length;
    while (rows[i]?.status == "failed") i++;
    if (i == rows.length && !isAtEnd) return;
    row.at = known ? known.at : at;
    rows.splice(i, 0, row);
  }

  /** The reader has scrolled: move the excerpt, and see whether they are at the end. All in pixels. */
  scrolled({ scrollTop, scrollHeight, clientHeight }: { scrollTop: number; scrollHeight: number; clientHeight: number }): void {
    const { timeline } = this;
    const below = scrollHeight - scrollTop - clientHeight;
    const all = timeline.order.length;
    const end = this.#end;
    timeline.following = below < 60 && (timeline.following || end == all);
    if (!timeline.following && scrollTop < 400 && end > SIZE) this.#end = Math.max(SIZE, end - SIZE / 2);
    else if (below < 400) this.#end = Math.min(all, end + SIZE / 2);
  }
}
