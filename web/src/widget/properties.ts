/** Every attribute's property, with the value that it has where the attribute is missing or empty. */
const DEFAULTS = {
  /** Where tokens come from. Required. */
  tokenUrl: "",
  /** The chat; another one takes its place. Required. */
  chatId: "",
  /** Where earlier messages come from, relative to `tokenUrl`; `{chatId}` is filled in. `none`: nowhere. Default: `/api/chats/{chatId}/messages`. */
  historyUrl: "/api/chats/{chatId}/messages",
  /** The server's absolute address, instead of the `wsUrl` that comes with the token. */
  url: "",
  /** Who writes: `user` or `agent`. Default: `user`. */
  as: "user",
  /** Fill the surrounding box, without launcher and header. */
  inline: false,
  /** Whether the panel is open; set it to open or close the panel. */
  open: false,
  /** Connect when the panel is first opened. */
  lazy: false,
  /** `light` or `dark`. Default: as the system prefers. */
  theme: "",
  /** Leave the page's title alone: no number of unread messages in front of it. */
  noTitle: false,
  /** Neither tell nor show who is there and what has been read. */
  noPresence: false,
  /** The longest random delay after a server's planned restart, in milliseconds. Default: 20,000. */
  spread: 20_000,
  /** The corner of the page: `end` or `start`. Default: `end`. */
  side: "end",
};

export type Properties = typeof DEFAULTS;

const attributeOf = (property: string): string => property.replace(/[A-Z]/g, (letter) => "-" + letter.toLowerCase());

export interface PropertiesElement extends Properties {}

/** An element with one property for each attribute: frameworks set whichever of the two they find. Nothing is kept beside the attribute. */
export class PropertiesElement extends (globalThis.HTMLElement ?? class {}) {
  static observedAttributes = [...Object.keys(DEFAULTS).map(attributeOf), "texts"];

  /** Take over what was set on this element before its class was known. */
  connectedCallback(): void {
    const own = this as unknown as Record<string, unknown>;
    for (const property of [...Object.keys(DEFAULTS), "texts", "draft", "connection"]) {
      if (!Object.hasOwn(own, property)) continue;
      const value = own[property];
      delete own[property];
      own[property] = value;
    }
  }

  show(): void {
    this.open = true;
  }

  hide(): void {
    this.open = false;
  }
}

for (const [property, standard] of Object.entries(DEFAULTS)) {
  const name = attributeOf(property);
  Object.defineProperty(PropertiesElement.prototype, property, {
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
