import type { Texts } from "./texts/en.ts";
import { languageOf, loadTexts, textsIn } from "./texts/index.ts";

/** What names a control for who can't see it: never empty. */
const NAMES = /^(open|title|close|send|placeholder|messages)$/;

/** An element's texts: those that the page gives, and for the rest those of the page's language. */
export class Wording {
  readonly #element: Element;
  readonly #changed: () => void;
  #own: Partial<Texts> = {};
  /** The page's language, when it was last looked up. */
  language: string | undefined;
  texts: Texts = textsIn("en");

  constructor(element: Element, changed: () => void) {
    this.#element = element;
    this.#changed = changed;
  }

  /** Take the page's own texts, as an object or its JSON. */
  give(given: Partial<Texts> | string | null | undefined): void {
    let own = given;
    try {
      if (typeof own == "string") own = JSON.parse(own || "{}") as Partial<Texts>;
    } catch {
      console.error("<eclipse-chat>: texts is not valid JSON");
      return;
    }
    this.#own = Object.fromEntries(Object.entries(own ?? {}).filter(([name, text]) => typeof text == "string" && (text.trim() || !NAMES.test(name))));
    this.refresh();
  }

  /** Put the texts together anew. */
  refresh(): void {
    const texts = { ...textsIn(languageOf(this.#element)), ...this.#own };
    // Frameworks set equal objects with every rendering.
    if (JSON.stringify(texts) == JSON.stringify(this.texts)) return;
    this.texts = texts;
    this.#changed();
  }

  /** Load the texts of the page's language, if it is another one by now. */
  async load(): Promise<void> {
    const language = languageOf(this.#element);
    if (language == this.language) return;
    this.language = language;
    this.refresh();
    await loadTexts(language);
    this.refresh();
  }
}
