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
  readonly #echoes = new Map<string, string>();

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
  visible(): Row[] {
    const { order, following, unsent } = this.timeline;
    if (following) this.#end = order.length;
    const end = this.#end;
    const start = Math.max(0, end - SIZE);
    const rows = order.slice(start, end);
    const isAtEnd = end == order.length;
    this.#echoes.clear();
    for (const [key, item] of unsent) {
      const { id, content, code, status } = item;
      if (id) this.#echoes.set(id, key);
      if (id && this.timeline.get(id)) continue;
      const row: Row = { key, at: Infinity, role: item.role.toLowerCase(), content, code, status };
      if (status == "failed") this.#putBack(rows, row, item, start > 0, isAtEnd);
      else if (isAtEnd) rows.push(row);
    }
    return rows;
  }

  /** Put a failed message where it was written: below the last message that was known then. */
  #putBack(rows: Row[], row: Row, { at, after }: Pick<Outgoing, "at" | "after">, isCut: boolean, isAtEnd: boolean): void {
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
