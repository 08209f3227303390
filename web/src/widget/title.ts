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
