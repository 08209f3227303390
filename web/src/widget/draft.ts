import { keep, recall } from "./storage.ts";

/** What is being written in one chat; it survives a reload. */
export class Draft {
  #name = "";
  #text = "";

  get text(): string {
    return this.#text;
  }

  set text(given: string) {
    this.#text = given.replace(/\r\n?/g, "\n"); // as fields do
    if (this.#name) keep("sessionStorage", this.#name, this.#text);
  }

  /** Take up a chat's draft; "" is no chat. What was written before there was a chat belongs to the first one. */
  begin(chatId: string): void {
    const name = chatId && "eclipse-chat:draft:" + chatId;
    if (name == this.#name) return;
    const early = this.#name ? "" : this.#text;
    this.#name = name;
    if (early) this.text = early;
    else this.#text = (name && recall("sessionStorage", name)) || "";
  }
}
