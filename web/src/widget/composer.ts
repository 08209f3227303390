import { h, icon } from "./dom.ts";
import type { Draft } from "./draft.ts";

/**
 * Characters of one message: the default of the server's `ECLIPSE_MAX_CONTENT`, which no event tells. A server that takes fewer answers the
 * message with an error.
 */
const MAX_CONTENT = 100_000;

/** The field and its button, around a draft. */
export class Composer {
  readonly input = h("textarea", { part: "input", rows: 1, enterkeyhint: "send" });
  readonly #button = h("button", { part: "send" }, icon("M12 20V5M5 12l7-7 7 7"));
  readonly element = h("form", { part: "composer" }, this.input, this.#button);
  readonly #draft: Draft;
  readonly #changed: () => void;

  /** `submit` answers whether the text was taken. */
  constructor(draft: Draft, on: { submit(text: string): boolean; typing(isTyping: boolean): void; changed(): void }) {
    const { input } = this;
    this.#draft = draft;
    this.#changed = on.changed;
    const submit = () => {
      const text = input.value.trim();
      if (!text || this.excess || !on.submit(text)) return;
      this.write("");
      input.focus();
    };
    this.element.onsubmit = (event) => {
      event.preventDefault();
      submit();
    };
    input.onkeydown = (event) => {
      // 229: a composition that some browsers end before they say Enter
      if (event.key != "Enter" || event.shiftKey || event.isComposing || event.keyCode == 229) return;
      event.preventDefault();
      if (!event.repeat) submit();
    };
    input.oninput = () => {
      draft.text = input.value;
      this.grow();
      on.typing(!!input.value.trim());
    };
  }

  /** How many characters are too many. */
  get excess(): number {
    const text = this.input.value.trim();
    return text.length > MAX_CONTENT ? Math.max(0, [...text].length - MAX_CONTENT) : 0;
  }

  /** Put a text into the field. */
  write(text: string): void {
    this.#draft.text = text;
    this.show();
  }

  /** Show the draft, which may be another one by now. */
  show(): void {
    const { input } = this;
    if (input.value == this.#draft.text) return;
    input.value = this.#draft.text;
    this.grow();
  }

  label(placeholder: string, send: string): void {
    this.input.placeholder = placeholder;
    this.input.setAttribute("aria-label", placeholder);
    this.#button.setAttribute("aria-label", send);
    this.grow();
  }

  /** Be as high as the text is. */
  grow(): void {
    const { input } = this;
    input.style.height = "auto";
    input.dir = input.value ? "auto" : "";
    if (input.scrollHeight) input.style.height = `${input.scrollHeight + 2}px`;
    const { excess } = this;
    input.setAttribute("aria-invalid", String(!!excess));
    this.#button.setAttribute("aria-disabled", String(!!excess || !input.value.trim()));
    this.#changed();
  }
}
