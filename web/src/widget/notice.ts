import { h, setText } from "./dom.ts";
import type { Texts } from "./texts/en.ts";
import type { Failure, State } from "./types.ts";

/** A short cut is nobody's business. */
const LATE = 2_500;
/** Codes of errors that keep the chat from connecting. */
const LINK = /^(token_|bad_url|connect_failed)/;

/** The line above the messages: what a person should know while it is true, the most urgent alone. */
export class Notice {
  readonly element = h("p", { part: "notice", role: "status", hidden: true });
  /** No more messages can wait. */
  isFull = false;
  readonly #changed: () => void;
  #problem: Failure | undefined;
  #wasConnected = false;
  #isLate = false;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(changed: () => void) {
    this.#changed = changed;
  }

  /** Begin anew, with another connection. */
  reset(): void {
    this.isFull = this.#wasConnected = false;
    this.#problem = undefined;
    this.#settle();
  }

  state(state: State): void {
    if (state == "open") {
      this.#wasConnected = true;
      this.#problem = undefined;
    }
    if (state == "open" || state == "closed") this.#settle();
    else
      this.#timer ??= setTimeout(() => {
        this.#isLate = true;
        this.#changed();
      }, LATE);
    this.#changed();
  }

  /** Errors about one command are no news for people. */
  error(failure: Failure): void {
    if (!LINK.test(failure.code ?? "")) return;
    this.#problem = failure;
    this.#changed();
  }

  show(texts: Texts, state: State | undefined, excess: number, isIncomplete: boolean): void {
    const text = excess && state != "closed"
      ? texts.tooLongBy.replace("{n}", excess.toLocaleString())
      : (this.isFull && texts.full) || this.#link(texts, state) || (isIncomplete && texts.historyFailed) || "";
    this.element.hidden = !text;
    this.element.dataset.kind = [texts.connecting, texts.ended].includes(text) ? "info" : "warning";
    setText(this.element, text);
  }

  #link(texts: Texts, state: State | undefined): string {
    const problem = this.#problem;
    if (state == "closed") return texts.ended;
    if (state && !navigator.onLine) return texts.offline;
    if (!state || state == "open") return "";
    if (problem && !problem.retryable) return problem.code == "bad_url" ? texts.unavailable : texts.refused;
    if (!this.#isLate) return "";
    return this.#wasConnected ? texts.offline : problem ? texts.unavailable : texts.connecting;
  }

  #settle(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#isLate = false;
  }
}
