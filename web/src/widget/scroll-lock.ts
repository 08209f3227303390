/** Keeps the page from scrolling behind a full screen. A style sheet of its own: taking it away leaves everything as it was. */
export class ScrollLock {
  readonly #sheet = new CSSStyleSheet();

  set(isLocked: boolean): void {
    const others = document.adoptedStyleSheets.filter((sheet) => sheet != this.#sheet);
    if (!isLocked && others.length == document.adoptedStyleSheets.length) return;
    if (isLocked) {
      const root = document.documentElement;
      // What the window takes its scrolling from; hiding the overflow of the other one would scroll to the top.
      const scroller = getComputedStyle(root).overflowY == "visible" ? "body" : ":root";
      // A scroll bar that leaves would move the page.
      const gutter = innerWidth > root.clientWidth ? ":root{scrollbar-gutter:stable!important}" : "";
      this.#sheet.replaceSync(`@media screen{${scroller}{overflow:hidden!important}${gutter}}`);
      others.push(this.#sheet);
    }
    document.adoptedStyleSheets = others;
  }
}
