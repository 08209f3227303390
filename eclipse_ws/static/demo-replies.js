// Ready answers on the agents' desk: some below the field, all of them after a `/` in the empty field. They are inserted, not sent.

const QUICK = 4; // below the field
const REPLIES = [
  "Good evening! How can I help?",
  "Let me look that up for you.",
  "Your parcel leaves tomorrow.",
  "Is there anything else?",
  "Could you tell me your order number, please?",
  "You can return a lamp within 30 nights. I am sending you a label.",
  "The bulb is warm white, 2,700 K, and can be dimmed down to 1,600 K.",
  "I am passing you on to a colleague who knows more about this.",
  "Thank you for your patience, and sorry that it took so long.",
  "Thank you for writing to us. Have a good night!",
];

const $ = (id) => document.getElementById(id);

export class Replies {
  #field;
  #matching = REPLIES;
  #at = 0;

  /** `field()` answers the field of the open chat, or nothing. */
  constructor(field) {
    this.#field = field;
    for (const text of REPLIES.slice(0, QUICK)) {
      const button = Object.assign(document.createElement("button"), { type: "button", dir: "auto", textContent: text });
      button.addEventListener("click", () => this.#insert(text));
      $("replies").append(button);
    }
    const all = $("all-replies");
    $("replies").prepend(all);
    all.hidden = false;
    all.addEventListener("click", () => this.open());
    // Before the element, which keeps the keys of its field for itself.
    const opens = (event) => {
      const field = this.#field();
      if (event.key != "/" || event.isComposing || event.composedPath()[0] != field || field.value) return;
      event.preventDefault();
      this.open();
    };
    $("pane").addEventListener("keydown", opens, { capture: true });
    const find = $("find-reply");
    find.addEventListener("input", () => this.#draw(find.value));
    find.addEventListener("keydown", (event) => this.#key(event));
    $("reply-list").addEventListener("click", ({ target }) => {
      const n = target.closest("[data-n]")?.dataset.n;
      if (n) this.#insert(this.#matching[n]);
    });
    $("reply-menu").addEventListener("focusout", ({ relatedTarget }) => $("reply-menu").contains(relatedTarget) || this.close());
    $("reply-list").addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus
  }

  get isOpen() {
    return !$("reply-menu").hidden;
  }

  open() {
    if (!this.#field()) return;
    $("reply-menu").hidden = false;
    $("find-reply").value = "";
    this.#draw("");
    $("find-reply").focus();
  }

  close() {
    $("reply-menu").hidden = true;
  }

  #key(event) {
    const { key } = event;
    const { length } = this.#matching;
    if (key == "Escape" || (key == "/" && !$("find-reply").value)) {
      this.close();
      if (key == "/") this.#insert("/"); // who writes two wants one
      this.#field()?.focus();
    } else if (key == "Enter" && length) this.#insert(this.#matching[this.#at]);
    else if (key == "ArrowDown" || key == "ArrowUp") this.#mark((this.#at + (key == "ArrowDown" ? 1 : length - 1)) % length);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  #draw(text) {
    const words = text.toLowerCase().split(/\s+/);
    this.#matching = REPLIES.filter((reply) => words.every((word) => reply.toLowerCase().includes(word)));
    const options = this.#matching.map((reply, n) => {
      const option = Object.assign(document.createElement("li"), { id: `reply-${n}`, textContent: reply, dir: "auto", role: "option" });
      option.dataset.n = n;
      return option;
    });
    $("reply-list").replaceChildren(...options);
    $("no-reply").hidden = options.length > 0;
    this.#mark(0);
  }

  #mark(n) {
    const options = $("reply-list").children;
    this.#at = options.length ? n : 0;
    [...options].forEach((option, i) => (option.ariaSelected = String(i == this.#at)));
    const marked = options[this.#at];
    if (!marked) return $("find-reply").removeAttribute("aria-activedescendant");
    $("find-reply").setAttribute("aria-activedescendant", marked.id);
    marked.scrollIntoView({ block: "nearest" });
  }

  /** Puts a text where the cursor is in the answer's field, for the agent to go on with. */
  #insert(text) {
    const field = this.#field();
    this.close();
    if (!field) return;
    const { selectionStart: start, selectionEnd: end, value } = field;
    const space = start && !/\s/.test(value[start - 1]) ? " " : "";
    field.setRangeText(space + text, start, end, "end");
    field.dispatchEvent(new Event("input", { bubbles: true }));
    field.focus();
  }
}
