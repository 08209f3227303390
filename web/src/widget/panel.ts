import { h, icon, setText } from "./dom.ts";
import { Header } from "./header.ts";
import type { Texts } from "./texts/en.ts";

/** Where the panel fills the screen, and is modal. */
const PHONE = "(max-width: 480px), (max-height: 480px) and (pointer: coarse)";
const BUBBLE = "M21 12a8 8 0 0 1-8 8H4l1.7-3.4A8 8 0 1 1 21 12zM9 12h.01M13 12h.01M17 12h.01";

/** The launcher and the panel around a conversation: where they are, how they open and close, and where the focus goes. */
export class Panel {
  readonly #badge = h("span", { part: "badge", "aria-hidden": "true", hidden: true });
  readonly #isInline: boolean;
  readonly #narrow = matchMedia(PHONE);
  readonly header: Header;
  readonly launcher: HTMLButtonElement;
  readonly element: HTMLElement;

  constructor(isInline: boolean, content: HTMLElement[], on: { open(): void; closed(): void }) {
    this.#isInline = isInline;
    this.launcher = h(
      "button",
      { class: "launch", part: "launcher", "aria-haspopup": "dialog", "aria-expanded": "false", hidden: isInline },
      icon(BUBBLE),
      this.#badge,
    );
    this.header = new Header(isInline, () => this.close());
    this.element = h(isInline ? "section" : "dialog", { part: "panel", "aria-labelledby": "title" }, this.header.element, ...content);
    this.launcher.onclick = on.open;
    this.element.addEventListener("close", () => {
      this.launcher.hidden = false;
      this.launcher.setAttribute("aria-expanded", "false");
      this.launcher.focus();
      on.closed();
    });
    this.element.addEventListener("keydown", (event) => {
      if (event.key != "Escape" || event.isComposing) return;
      event.stopPropagation();
      this.close();
    });
  }

  get isOpen(): boolean {
    return this.#isInline || (this.element as HTMLDialogElement).open;
  }

  open(): void {
    const dialog = this.element as HTMLDialogElement;
    this.fit();
    if (this.#narrow.matches) dialog.showModal();
    else dialog.show();
    this.launcher.setAttribute("aria-expanded", "true");
    this.launcher.hidden = true;
  }

  close(): void {
    if (!this.#isInline) (this.element as HTMLDialogElement).close();
  }

  /** Make room for a phone's keyboard: it takes its room from the visual viewport alone. */
  fit(): void {
    if (!this.#narrow.matches || !visualViewport) return;
    this.element.style.setProperty("--full", `${visualViewport.height}px`);
    this.element.style.setProperty("--top", `${visualViewport.offsetTop}px`);
  }

  label(texts: Texts, unread: number): void {
    this.header.label(texts);
    this.count(texts, unread);
  }

  /** Show the number of unread messages on the launcher. */
  count(texts: Texts, unread: number): void {
    this.#badge.hidden = !unread;
    setText(this.#badge, unread > 99 ? "99+" : String(unread));
    this.launcher.setAttribute("aria-label", unread ? `${texts.open}, ${texts.unread.replace("{n}", String(unread))}` : texts.open);
  }
}
