/** What is being written in one chat; it survives a reload. */
export class Draft {
  #name = "";
  #text = "";

  get text(): string {
    return this.#text;
  }

  set text(given: string) {
    const text = (this.#text = given.replace(/\r\n?/g, "\n")); // as fields do
    try {
      if (!this.#name) return;
      if (text) sessionStorage.setItem(this.#name, text);
      else sessionStorage.removeItem(this.#name);
    } catch {} // storage is forbidden: a reload loses the draft
  }

  /** Take up a chat's draft. What was written before there was a chat belongs to the first one. */
  begin(chatId: string): void {
    const name = "eclipse-chat:draft:" + chatId;
    if (name == this.#name) return;
    const isFirst = !this.#name;
    this.#name = name;
    if (isFirst && this.#text) this.text = this.#text;
    else this.#text = this.#stored();
  }

  #stored(): string {
    try {
      return sessionStorage.getItem(this.#name) ?? "";
    } catch {
      return ""; // storage is forbidden: there is no draft
    }
  }
}
