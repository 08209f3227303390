import { h, setText, top, update } from "./dom.ts";
import { Excerpt } from "./excerpt.ts";
import { dayName, dayOf, greeting, isSameGroup, markOf, messageElement, notice } from "./row.ts";
import type { Scene } from "./scene.ts";

interface Drawn {
  element: HTMLElement;
  mark: string;
}

/** The scrolling list of rows. It keeps an element for as long as its row is there, and what is being read in its place. */
export class MessageList {
  readonly #list = h("ol", { role: "list" });
  /** What scrolls. */
  readonly log = h("div", { part: "log", role: "group", tabindex: 0 }, this.#list);
  readonly #latest = h("button", { part: "latest", hidden: true });
  readonly element = h("div", { class: "mid" }, this.log, this.#latest);
  #drawn = new Map<string, Drawn>();
  #excerpt: Excerpt | undefined;
  /** What is being read: the first message that begins in sight, and where, in pixels of the window below the list's upper edge. */
  #anchor: { element: Element; at: number } | undefined;
  /** The list's area when it was last seen to change. */
  #size = 0;

  constructor(on: { scroll(): void; latest(): void; action(does: string, key: string): void }) {
    this.log.onscroll = () => {
      // With another size it is the browser that scrolls, and not the reader.
      if (this.#size == this.#measure()) this.#excerpt?.scrolled(this.log);
      this.#mark();
      on.scroll();
    };
    this.#latest.onclick = on.latest;
    this.#list.onclick = ({ target }) => {
      const { id, does } = (target as HTMLElement).closest<HTMLElement>("[data-does]")?.dataset ?? {};
      if (id && does) on.action(does, id);
    };
    // The reader stays at the same place, whatever takes room away.
    new ResizeObserver(() => {
      this.#size = this.#measure();
      this.#stay();
    }).observe(this.log);
    // It is displayed again.
    new IntersectionObserver(() => on.scroll()).observe(this.log);
  }

  /** Forget what was drawn: the texts have changed. */
  redraw(): void {
    this.#drawn.clear();
    this.#list.replaceChildren();
  }

  render(scene: Scene): void {
    const { conversation, texts, unread } = scene;
    const timeline = conversation?.timeline;
    if (timeline != this.#excerpt?.timeline) {
      this.#excerpt = timeline && new Excerpt(timeline);
      this.redraw();
    }
    const { log } = this;
    const held = (log.getRootNode() as ShadowRoot).activeElement;
    this.#mark();
    this.#reconcile(this.#plan(scene));
    if (held && !held.isConnected) log.focus({ preventScroll: true });
    this.#stay();
    this.#latest.hidden = timeline?.following ?? true;
    setText(this.#latest, (unread ? texts.latest : texts.newest) + " ↓");
  }

  #plan(scene: Scene): [key: string, mark: string, make: () => HTMLElement][] {
    const excerpt = this.#excerpt;
    const rows = excerpt?.visible() ?? [];
    const plan: [string, string, () => HTMLElement][] = [];
    const { texts } = scene;
    const { empty } = texts;
    if (empty && rows.every((row) => row.isJoin)) plan.push(["empty", empty, () => greeting(texts)]);
    rows.forEach((row, i) => {
      const before = rows[i - 1];
      const day = dayOf(row);
      if (Number.isFinite(row.at) && (!before || dayOf(before) != day)) {
        const name = dayName(day, scene);
        plan.push([`day ${day}`, name, () => h("li", { part: "day" }, name)]);
      }
      if (row.isJoin) {
        const text = notice(row, scene);
        plan.push([row.key, text, () => h("li", { part: "joined" }, text)]);
        return;
      }
      const isFirst = !isSameGroup(before, row);
      const isLast = !isSameGroup(row, rows[i + 1]);
      const isSaid = !row.status;
      const key = excerpt!.nameOf(row);
      plan.push([key, markOf(row, isFirst, isLast, isSaid, scene), () => messageElement(row, key, isFirst, isLast, isSaid, scene)]);
    });
    return plan;
  }

  #reconcile(plan: [string, string, () => HTMLElement][]): void {
    const keep = new Set(plan.map(([key]) => key));
    for (const [key, { element }] of this.#drawn) {
      if (keep.has(key)) continue;
      element.remove();
      this.#drawn.delete(key);
    }
    let spot = this.#list.firstElementChild;
    for (const [key, mark, make] of plan) {
      let drawn = this.#drawn.get(key);
      if (!drawn) this.#drawn.set(key, (drawn = { element: make(), mark }));
      else if (drawn.mark != mark) update(drawn.element, make());
      drawn.mark = mark;
      if (drawn.element == spot) spot = spot.nextElementSibling;
      else this.#list.insertBefore(drawn.element, spot);
    }
  }

  #measure(): number {
    return this.log.clientWidth * this.log.clientHeight;
  }

  /** Remember what is being read, unless it has just been moved by another size. */
  #mark(): void {
    if (!this.#size || this.#size != this.#measure()) return;
    const edge = top(this.log);
    const element = [...this.#list.children].find((one) => (one as HTMLElement).dataset.id && top(one) >= edge);
    this.#anchor = element && { element, at: top(element) - edge };
  }

  /** Scroll to what is being read: to the end, or to where it is by now. */
  #stay(): void {
    const { log } = this;
    const { element, at } = this.#anchor ?? {};
    if (this.#excerpt?.timeline.following ?? true) log.scrollTop = log.scrollHeight;
    // A page may scale the list: then a pixel of the window is not one of its own.
    else if (element?.isConnected && this.#size) log.scrollTop += ((top(element) - top(log) - at!) * log.offsetHeight) / log.getBoundingClientRect().height;
  }
}
