import { h } from "./dom.ts";

/** What screen readers say. Texts are added, since replacing one would cut it short. */
export class LiveRegion {
  readonly element = h("div", { class: "sr", role: "status", "aria-live": "polite", "aria-atomic": "false" });

  /** `key` names the message that it is about. */
  say(text: string, key?: string): void {
    const { element } = this;
    element.append(h("p", { "data-id": key }, text.slice(0, 500).replace(/[\ud800-\udbff]$/, "")));
    while (element.childElementCount > 5) element.firstChild!.remove();
  }

  /** A message was taken back. */
  forget(key: string): void {
    for (const said of [...this.element.children]) if ((said as HTMLElement).dataset.id == key) said.remove();
  }

  clear(): void {
    this.element.replaceChildren();
  }
}
