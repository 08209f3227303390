// <script type="module" src=".../widget.js"> and <eclipse-chat token-url="/api/ws/token" chat-id="42">: see docs/widget.md.
// This is what a page sees of the element, and what build-package.mjs makes the package's types of.
import type { EclipseChat } from "eclipse-chat";
import { ChatElement } from "./element.ts";
import type { EclipseChatElementEventMap } from "./events.ts";
import type { Properties } from "./properties.ts";
import type { Texts } from "./texts/en.ts";

export type { EclipseChatElementEventMap, ReceivedMessage } from "./events.ts";
export type { Texts };

type AllEvents = EclipseChatElementEventMap & Omit<HTMLElementEventMap, keyof EclipseChatElementEventMap>;
type Listener<Type extends keyof AllEvents> = (this: EclipseChatElement, event: AllEvents[Type]) => void;

/** `<eclipse-chat>`: one chat, as a panel over the page or, `inline`, inside it. Each of its attributes has a property. */
export interface EclipseChatElement extends HTMLElement, Properties {
  /** The texts in use. Those that are set, as an object or its JSON, replace some of the page's language. */
  get texts(): Texts;
  set texts(texts: Partial<Texts> | string | null | undefined);
  /** The text in the field. */
  draft: string;
  /** Another client, over whose socket this chat is joined instead of over one of its own: set it before the element is in the page. */
  get connection(): EclipseChat | undefined;
  set connection(client: EclipseChat | null | undefined);
  /** The client; undefined while there is no connection to keep. */
  readonly chat: EclipseChat | undefined;
  /** How many messages are unread. */
  readonly unread: number;
  /** Whether the panel is open; an inline chat always is, once it is loaded. */
  readonly isOpen: boolean;
  show(): void;
  hide(): void;
  /**
   * Send a message of this page's person.
   * @throws Error without `tokenUrl` and `chatId`, or as the client's `send` does
   */
  send(text: string): void;
  addEventListener<Type extends keyof AllEvents>(type: Type, listener: Listener<Type>, options?: boolean | AddEventListenerOptions): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject, options?: boolean | AddEventListenerOptions): void;
  removeEventListener<Type extends keyof AllEvents>(type: Type, listener: Listener<Type>, options?: boolean | EventListenerOptions): void;
  removeEventListener(type: string, listener: EventListenerOrEventListenerObject, options?: boolean | EventListenerOptions): void;
}

/** The element's class. Importing this module registers it; where there is no document, nothing happens. */
export const EclipseChatElement: { new (): EclipseChatElement; readonly prototype: EclipseChatElement } = ChatElement;

declare global {
  interface HTMLElementTagNameMap {
    "eclipse-chat": EclipseChatElement;
  }
}

// A server that renders a page has no registry, and a page can load this twice.
if (globalThis.customElements && !customElements.get("eclipse-chat")) customElements.define("eclipse-chat", ChatElement);
