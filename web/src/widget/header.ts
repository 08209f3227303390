import { h, icon, setText, update } from "./dom.ts";
import type { Scene } from "./scene.ts";
import type { Texts } from "./texts/en.ts";
import { isolated } from "./words.ts";

/** The names of those on the other side who have answered or joined lately, at most three, in the order of their coming. */
function peopleOf({ conversation }: Scene): string[] {
  const names = new Map<unknown, string>();
  for (const row of conversation?.timeline.order.slice(-500) ?? []) {
    const { id, name } = row.sender ?? {};
    // Who came without a name is in the conversation, but no face is made up for them.
    if (name && !conversation!.isMine(row)) names.set(id ?? name, String(name));
  }
  return [...names.values()].slice(-3);
}

/** One or two letters that stand for a name. */
function initials(name: string): string {
  const letters = name.match(/(?<!\S)[\p{L}\p{N}]/gu) ?? [];
  return [...new Set([letters[0], letters.at(-1)])].join("").toUpperCase();
}

/** A colour that a name keeps everywhere: as dark as each other one, so that white letters are legible on it. */
function colour(name: string): string {
  const hue = [...name].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) % 360, 0);
  return `oklch(.47 .13 ${hue})`;
}

/** The panel's header: its title, who answers, and the button that closes it. */
export class Header {
  readonly #faces = h("div", { class: "faces", "aria-hidden": "true" });
  readonly #title = h("h2", { id: "title", part: "title" });
  readonly #subtitle = h("p", { part: "subtitle" });
  readonly #close = h("button", { class: "x", part: "close" }, icon("M6 6l12 12M18 6L6 18"));
  readonly element: HTMLElement;

  constructor(isHidden: boolean, close: () => void) {
    const names = h("div", { class: "names" }, this.#title, this.#subtitle);
    this.element = h("div", { class: "head", part: "header", hidden: isHidden }, this.#faces, names, this.#close);
    this.#close.onclick = close;
  }

  /** Show who answers. Before anybody is known, the page's own subtitle is in the place of their names. */
  render(scene: Scene): void {
    const names = peopleOf(scene);
    setText(this.#subtitle, names.map(isolated).join(", ") || scene.texts.subtitle);
    const faces = names.map((name) => {
      const face = h("span", { part: "face" }, initials(name));
      face.style.background = colour(name);
      return face;
    });
    update(this.#faces, h("div", {}, ...faces));
  }

  label(texts: Texts): void {
    setText(this.#title, texts.title);
    this.#close.setAttribute("aria-label", texts.close);
  }
}
