import { focused, h, icon, setText } from "./dom.ts";
import { Header } from "./header.ts";
import { ScrollLock } from "./scroll-lock.ts";
import type { Texts } from "./texts/en.ts";

/** Where the panel fills the screen, and is modal. */
const PHONE = "(max-width: 30em), (max-height: 30em) and (pointer: coarse)";
const BUBBLE = "M21 12a8 8 0 0 1-8 8H4l1.7-3.4A8 8 0 1 1 21 12zM9 12h.01M13 12h.01M17 12h.01";
/** Events that a page would take for its own: as its shortcuts, as input to its forms, as scrolling. */
const PRIVATE =
  "keydown keyup keypress beforeinput input copy cut paste compositionstart compositionupdate compositionend wheel touchmove".split(" ");

/** The launcher and the panel around a conversation: where they are, how they open and close, and where the focus goes. */
export class Panel {
  readonly #badge = h("span", { part: "badge", "aria-hidden": "true", hidden: true });
  readonly #isInline: boolean;
  readonly #narrow = matchMedia(PHONE);
  readonly #lock = new ScrollLock();
  readonly #said: HTMLElement;
  readonly #closed: () => void;
  #isShown = false;
  #isModal = false;
  #opener: HTMLElement | undefined;
  readonly header: Header;
  readonly launcher: HTMLButtonElement;
  readonly element: HTMLElement;
  /** Around all of it. Unless the chat is inline it is a popover: nothing of the page is above it, and no ancestor's style moves or clips it. */
  readonly layer: HTMLElement;

  /** `said` is the live region: it must stay outside a hidden panel, and inside a modal one. */
  constructor(isInline: boolean, content: HTMLElement[], said: HTMLElement, on: { open(): void; closed(): void }) {
    this.#isInline = isInline;
    this.#said = said;
    this.#closed = on.closed;
    this.launcher = h(
      "button",
      {
        class: "launch",
        part: "launcher",
        "aria-haspopup": "dialog",
        "aria-expanded": "false",
        "aria-controls": "panel",
        hidden: isInline,
      },
      icon(BUBBLE),
      this.#badge,
    );
    this.header = new Header(isInline, () => this.close());
    this.element = h(
      isInline ? "section" : "dialog",
      { id: "panel", part: "panel", "aria-labelledby": "title" },
      this.header.element,
      ...content,
    );
    this.layer = h("div", { class: "layer", popover: isInline ? null : "manual" }, this.launcher, this.element, said);
    this.launcher.onclick = on.open;
    // The browser closes a modal dialog by itself: with a phone's back gesture, for example.
    this.element.addEventListener("close", () => !(this.element as HTMLDialogElement).open && this.close());
    this.element.addEventListener("keydown", (event) => {
      if (isInline || event.key != "Escape" || event.isComposing) return;
      event.preventDefault();
      this.close();
    });
    for (const type of PRIVATE)
      this.layer.addEventListener(
        type,
        (event) => {
          const { key } = event as KeyboardEvent;
          // A page's own dialog needs them if the chat is in it.
          if (key != "Tab" && !(isInline && key == "Escape")) event.stopPropagation();
        },
        { passive: true },
      );
    // A modal panel in something that the page no longer displays would block the page.
    if (!isInline) new ResizeObserver(() => this.#arrange()).observe(this.element);
  }

  get isOpen(): boolean {
    return this.#isInline || this.#isShown;
  }

  /** The element is in a page, perhaps once more, until `signal` is aborted. */
  attach(signal: AbortSignal): void {
    if (this.#isInline) return;
    this.#rise();
    this.#arrange();
    this.#narrow.addEventListener("change", () => this.#arrange(), { signal });
    window.addEventListener("load", () => this.#rise(), { signal }); // the page's style sheets are there
    signal.addEventListener("abort", () => this.#lock.set((this.#isModal = false)));
  }

  /** Open the panel. A person's opening gives the focus to `target`, and closing returns it. */
  open(target?: HTMLElement): void {
    if (this.#isInline) return target?.focus();
    const active = focused();
    this.#opener = active == document.body ? this.launcher : active;
    this.#isShown = true;
    this.launcher.setAttribute("aria-expanded", "true");
    this.launcher.hidden = true;
    this.#rise();
    this.fit();
    this.#arrange();
    target?.focus();
  }

  /** Close the panel. `isTold`: it was not the element's own doing, which has to follow. */
  close(isTold = true): void {
    if (!this.#isShown) return;
    const isHeld = this.#isModal || this.element.contains(focused());
    this.#isShown = false;
    this.#arrange();
    this.launcher.hidden = false;
    this.launcher.setAttribute("aria-expanded", "false");
    if (isHeld) {
      this.#opener?.focus();
      if (focused() != this.#opener) this.launcher.focus();
    }
    if (isTold) this.#closed();
  }

  /** Make room for a phone's keyboard: it takes its room from the visual viewport alone, as does zooming with two fingers. */
  fit(): void {
    if (!this.#narrow.matches || !visualViewport) return;
    const { height, offsetTop, scale } = visualViewport;
    this.element.style.setProperty("--full", `${height * scale}px`);
    this.element.style.setProperty("--top", `${scale > 1 ? 0 : offsetTop}px`);
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

  /** Come above everything that the page has put on the top layer. */
  #rise(): void {
    if (!this.layer.isConnected) return;
    const { host } = this.layer.getRootNode() as ShadowRoot;
    const { insetInlineStart, insetInlineEnd } = getComputedStyle(host);
    // Pages chose the other corner with `inset-inline: 20px auto` before there was `side`.
    this.layer.classList.toggle("start", insetInlineStart != "auto" && insetInlineEnd == "auto");
    // Browsers without popovers show it as a fixed box.
    for (const isUp of [false, true]) this.layer.togglePopover?.(isUp);
  }

  /** Let the dialog be what it should be now: closed, beside the page, or modal where it fills the screen. */
  #arrange(): void {
    const dialog = this.element as HTMLDialogElement;
    const isModal = this.#isShown && this.#narrow.matches && !!this.layer.getClientRects().length;
    if (dialog.open == this.#isShown && isModal == this.#isModal) return;
    const active = focused();
    dialog.close();
    if (isModal) dialog.showModal();
    else dialog.open = this.#isShown; // show() would take the focus
    (isModal ? dialog : this.layer).append(this.#said);
    this.#lock.set((this.#isModal = isModal));
    if (this.#isShown && dialog.contains(active)) active.focus({ preventScroll: true });
  }
}
