import { h, icon } from "./dom.ts";

/** Characters of one message that a server takes by default (`ECLIPSE_MAX_CONTENT`); another limit is learnt from its answers. */
const LIMIT = 100_000;

/** The field, its button, and the draft that survives a reload. */
export class Composer {
  readonly input = h("textarea", { part: "input", rows: 1, enterkeyhint: "send" });
  readonly #button = h("button", { part: "send" }, icon("M12 20V5M5 12l7-7 7 7"));
  readonly element = h("form", { part: "composer" }, this.input, this.#button);
  readonly #changed: () => void;
  #name = "";

  /** `submit` answers whether the text was taken. */
  constructor(on: { submit(text: string): boolean; typing(isTyping: boolean): void; changed(): void }) {
    const { input } = this;
    this.#changed = on.changed;
    const submit = () => {
      const text = input.value.trim();
      if (!text || this.excess || !on.submit(text)) return;
      this.text = "";
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
      submit();
    };
    input.oninput = () => {
      this.#grow();
      this.#store();
      on.typing(!!input.value.trim());
    };
  }

  /** Show a chat's draft. What was written before there was a chat belongs to the first one. */
  begin(chatId: string): void {
    const name = "eclipse-chat:draft:" + chatId;
    if (name == this.#name) return;
    const isFirst = !this.#name;
    this.#name = name;
    if (!isFirst || !this.input.value) this.#show(this.#stored());
    else this.#store();
  }

  /** How many characters are too many. */
  get excess(): number {
    const text = this.input.value.trim();
    return text.length > LIMIT ? Math.max(0, [...text].length - LIMIT) : 0;
  }

  get text(): string {
    return this.input.value;
  }

  set text(text: string) {
    this.#show(text);
    this.#store();
  }

  #show(text: string): void {
    this.input.value = text;
    this.#grow();
  }

  #stored(): string {
    try {
      return sessionStorage.getItem(this.#name) ?? "";
    } catch {
      return ""; // storage is forbidden: there is no draft
    }
  }

  label(placeholder: string, send: string): void {
    this.input.placeholder = placeholder;
    this.input.setAttribute("aria-label", placeholder);
    this.#button.setAttribute("aria-label", send);
    this.#grow();
  }

  #store(): void {
    try {
      if (!this.#name) return;
      if (this.input.value) sessionStorage.setItem(this.#name, this.input.value);
      else sessionStorage.removeItem(this.#name);
    } catch {} // storage is forbidden: a reload loses the draft
  }

  #grow(): void {
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
