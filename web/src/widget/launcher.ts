import { h, icon } from "./dom.ts";
import type { Texts } from "./texts/en.ts";

const BUBBLE = "M21 12a8 8 0 0 1-8 8H4l1.7-3.4A8 8 0 1 1 21 12zM9 12h.01M13 12h.01M17 12h.01";
/** Events that a page would take for its own: as its shortcuts, as input to its forms, as scrolling. */
const PRIVATE =
  "focusin contextmenu dragover drop keydown keyup keypress beforeinput input copy cut paste compositionstart compositionupdate compositionend wheel touchmove".split(" ");

/** The button that opens the panel, and the layer that both are in. */
export class Launcher {
  readonly #badge = h("span", { part: "badge", "aria-hidden": "true", hidden: true });
  readonly isInline: boolean;
  readonly button: HTMLButtonElement;
  /** The live region: it must stay outside a hidden panel, and inside a modal one. */
  readonly said: HTMLElement;
  /** Around all of it. Unless the chat is inline it is a popover: nothing of the page is above it, and no ancestor's style moves or clips it. */
  readonly layer: HTMLElement;

  constructor(isInline: boolean, said: HTMLElement, on: { press(): void; approach(): void }) {
    this.isInline = isInline;
    this.said = said;
    const button = (this.button = h(
      "button",
      { class: "launch", part: "launcher", "aria-haspopup": "dialog", "aria-expanded": "false", "aria-controls": "panel", hidden: isInline },
      icon(BUBBLE),
      this.#badge,
    ));
    button.onclick = on.press;
    button.onpointerenter = button.onfocus = on.approach;
    this.layer = h("div", { class: "layer", popover: isInline ? null : "manual" }, button, said);
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
  }

  /** The element is in a page, perhaps once more, until `signal` is aborted. */
  attach(signal: AbortSignal): void {
    this.rise();
    window.addEventListener("load", () => this.rise(), { signal }); // the page's style sheets are there
  }

  /** The panel has been asked for, and is not there yet. */
  set isBusy(isBusy: boolean) {
    this.button.setAttribute("aria-busy", String(isBusy));
  }

  /** Come above everything that the page has put on the top layer. */
  rise(): void {
    const { layer } = this;
    if (this.isInline || !layer.isConnected) return;
    const { host } = layer.getRootNode() as ShadowRoot;
    // On a page with CSS zoom the panel would be larger than the window.
    layer.style.zoom = "";
    layer.style.zoom = String(1 / (layer.currentCSSZoom || 1));
    const { insetInlineStart, insetInlineEnd } = getComputedStyle(host);
    // Pages chose the other corner with `inset-inline: 20px auto` before there was `side`.
    layer.classList.toggle("start", insetInlineStart != "auto" && insetInlineEnd == "auto");
    // Browsers without popovers show it as a fixed box.
    for (const isUp of [false, true]) layer.togglePopover?.(isUp);
  }

  /** Whether it has a place in the page, as far as the browser can say. */
  get isDisplayed(): boolean {
    return this.layer.checkVisibility?.() ?? true;
  }

  /** Show the number of unread messages. */
  label(texts: Texts, unread: number): void {
    this.#badge.hidden = !unread;
    this.#badge.textContent = unread > 99 ? "99+" : String(unread);
    this.button.setAttribute("aria-label", unread ? `${texts.open}, ${texts.unread.replace("{n}", String(unread))}` : texts.open);
  }
}
