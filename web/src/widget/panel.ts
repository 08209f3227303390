import { focused, h } from "./dom.ts";
import { Header } from "./header.ts";
import type { Launcher } from "./launcher.ts";
import { ScrollLock } from "./scroll-lock.ts";

/** Where the panel fills the screen, and is modal. */
const PHONE = "(max-width: 30em), (max-height: 30em) and (pointer: coarse)";

/** The panel around a conversation: how it opens and closes, and where the focus goes. */
export class Panel {
  readonly #launcher: Launcher;
  readonly #narrow = matchMedia(PHONE);
  readonly #lock = new ScrollLock();
  readonly #closed: () => void;
  #isShown = false;
  #isModal = false;
  #opener: HTMLElement | undefined;
  readonly header: Header;
  readonly element: HTMLElement;

  constructor(launcher: Launcher, content: HTMLElement[], closed: () => void) {
    const { isInline, layer, said } = (this.#launcher = launcher);
    this.#closed = closed;
    this.header = new Header(isInline, () => this.close());
    this.element = h(
      isInline ? "section" : "dialog",
      { id: "panel", part: "panel", "aria-labelledby": "title" },
      this.header.element,
      ...content,
    );
    layer.append(this.element, said);
    if (isInline) return;
    // The browser closes a modal dialog by itself: with a phone's back gesture, for example.
    this.element.addEventListener("close", () => !(this.element as HTMLDialogElement).open && this.close());
    this.element.addEventListener("keydown", (event) => {
      if (event.key != "Escape" || event.isComposing) return;
      event.preventDefault();
      this.close();
    });
    // A modal panel in something that the page no longer displays would block the page.
    new ResizeObserver(() => this.#arrange()).observe(this.element);
  }

  get #host(): Element {
    return (this.element.getRootNode() as ShadowRoot).host;
  }

  get isOpen(): boolean {
    return this.#launcher.isInline || this.#isShown;
  }

  /** The element is in a page, perhaps once more, until `signal` is aborted. */
  attach(signal: AbortSignal): void {
    if (this.#launcher.isInline) return;
    this.#arrange();
    this.#narrow.addEventListener("change", () => this.#arrange(), { signal });
    for (const type of ["resize", "scroll"]) visualViewport?.addEventListener(type, () => this.#fit(), { signal });
    signal.addEventListener("abort", () => this.#lock.set((this.#isModal = false)));
  }

  /** Open the panel. A person's opening gives the focus to `target`, and closing returns it. */
  open(target?: HTMLElement): void {
    const { button } = this.#launcher;
    const active = focused(this.#host);
    this.#opener = active == document.body ? button : active;
    this.#isShown = true;
    button.setAttribute("aria-expanded", "true");
    button.hidden = true;
    this.#launcher.rise();
    this.#fit();
    this.#arrange();
    target?.focus();
  }

  /** Close the panel. `isTold`: it was not the element's own doing, which has to follow. */
  close(isTold = true): void {
    if (!this.#isShown) return;
    const { button } = this.#launcher;
    const isHeld = this.#isModal || this.element.contains(focused(this.#host));
    this.#isShown = false;
    this.#arrange();
    button.hidden = false;
    button.setAttribute("aria-expanded", "false");
    if (isHeld) {
      this.#opener?.focus();
      if (focused(this.#host) != this.#opener) button.focus();
    }
    if (isTold) this.#closed();
  }

  /** Make room for a phone's keyboard: it takes its room from the visual viewport alone, as does zooming with two fingers. */
  #fit(): void {
    if (!this.#narrow.matches || !visualViewport) return;
    const { height, offsetTop, scale } = visualViewport;
    this.element.style.setProperty("--_full", `${height * scale}px`);
    this.element.style.setProperty("--_top", `${scale > 1 ? 0 : offsetTop}px`);
  }

  /** Let the dialog be what it should be now: closed, beside the page, or modal where it fills the screen. */
  #arrange(): void {
    const { layer, said } = this.#launcher;
    const dialog = this.element as HTMLDialogElement;
    const isModal = this.#isShown && this.#narrow.matches && !!layer.getClientRects().length;
    if (dialog.open == this.#isShown && isModal == this.#isModal) return;
    const active = focused(this.#host);
    dialog.close();
    if (isModal) dialog.showModal();
    else dialog.open = this.#isShown; // show() would take the focus
    (isModal ? dialog : layer).append(said);
    this.#lock.set((this.#isModal = isModal));
    if (this.#isShown && dialog.contains(active)) active.focus({ preventScroll: true });
  }
}
