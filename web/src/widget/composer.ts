import { h, icon } from "./dom.ts";

/** The field, its button, and the draft that survives a reload. */
export class Composer {
  readonly input = h("textarea", { part: "input", rows: 1, maxlength: 100_000, enterkeyhint: "send" });
  readonly #button = h("button", { part: "send" }, icon("M12 20V5M5 12l7-7 7 7"));
  readonly element = h("form", { part: "composer" }, this.input, this.#button);
  #name = "";

  /** `submit` answers whether the text was taken. */
  constructor(on: { submit(text: string): boolean; typing(isTyping: boolean): void }) {
    const { input } = this;
    const submit = () => {
      const text = input.value.trim();
      if (!text || !on.submit(text)) return;
      input.value = "";
      this.#store();
      this.#grow();
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

  /** Take up the chat's draft, unless something is in the field already. */
  begin(chatId: string): void {
    this.#name = "eclipse-chat:draft:" + chatId;
    if (this.input.value) return;
    try {
      this.input.value = sessionStorage.getItem(this.#name) ?? "";
    } catch {} // storage is forbidden: there is no draft
    this.#grow();
  }

  clear(): void {
    this.input.value = "";
    this.#grow();
  }

  label(placeholder: string, send: string): void {
    this.input.placeholder = placeholder;
    this.input.setAttribute("aria-label", placeholder);
    this.#button.setAttribute("aria-label", send);
    this.#grow();
  }

  #store(): void {
    try {
      if (this.input.value) sessionStorage.setItem(this.#name, this.input.value);
      else sessionStorage.removeItem(this.#name);
    } catch {} // storage is forbidden: a reload loses the draft
  }

  #grow(): void {
    const { input } = this;
    input.style.height = "auto";
    input.dir = input.value ? "auto" : "";
    if (input.scrollHeight) input.style.height = `${input.scrollHeight + 2}px`;
    this.#button.setAttribute("aria-disabled", String(!input.value.trim()));
  }
}
