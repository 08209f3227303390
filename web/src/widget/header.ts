import { h, icon, setText } from "./dom.ts";
import type { Texts } from "./texts/en.ts";

/** The panel's header: its title, a subtitle, and the button that closes it. */
export class Header {
  readonly #title = h("h2", { id: "title", part: "title" });
  readonly #subtitle = h("p", { part: "subtitle" });
  readonly #close = h("button", { class: "x", part: "close" }, icon("M6 6l12 12M18 6L6 18"));
  readonly element: HTMLElement;

  constructor(isHidden: boolean, close: () => void) {
    this.element = h("div", { class: "head", part: "header", hidden: isHidden }, h("div", {}, this.#title, this.#subtitle), this.#close);
    this.#close.onclick = close;
  }

  label(texts: Texts): void {
    setText(this.#title, texts.title);
    setText(this.#subtitle, texts.subtitle);
    this.#close.setAttribute("aria-label", texts.close);
  }
}
