/** Every attribute's property, with the value that it has where the attribute is missing or empty; `docs/widget.md` says what they mean. */
const DEFAULTS = {
  tokenUrl: "",
  chatId: "",
  historyUrl: "/api/chats/{chatId}/messages",
  url: "",
  as: "user",
  inline: false,
  open: false,
  lazy: false,
  theme: "",
  noTitle: false,
  spread: 20_000,
  side: "end",
};

export type Properties = typeof DEFAULTS;

const attributeOf = (property: string): string => property.replace(/[A-Z]/g, (letter) => "-" + letter.toLowerCase());

export const attributes = Object.keys(DEFAULTS).map(attributeOf);

/** Give a class one property for each attribute: frameworks set whichever of the two they find. Nothing is kept beside the attribute. */
export function reflect(prototype: HTMLElement): void {
  for (const [property, standard] of Object.entries(DEFAULTS)) {
    const name = attributeOf(property);
    Object.defineProperty(prototype, property, {
      configurable: true,
      enumerable: true,
      get(this: HTMLElement) {
        const value = this.getAttribute(name);
        // React 18 writes `false` as text.
        if (typeof standard == "boolean") return value != null && value != "false";
        if (typeof standard == "number") return value && +value >= 0 ? +value : standard;
        return value || standard;
      },
      set(this: HTMLElement, value: unknown) {
        if (typeof standard == "boolean" ? !value : value == null) this.removeAttribute(name);
        else this.setAttribute(name, typeof standard == "boolean" ? "" : String(value));
      },
    });
  }
}

/** Take over what was set on an element before its class was known. */
export function takeOver(element: HTMLElement): void {
  const own = element as unknown as Record<string, unknown>;
  for (const property of [...Object.keys(DEFAULTS), "texts", "draft"]) {
    if (!Object.hasOwn(own, property)) continue;
    const value = own[property];
    delete own[property];
    own[property] = value;
  }
}
