/** Importing `eclipse-chat/widget` registers the element `<eclipse-chat>`; where there is no document, nothing happens. */
import type { EclipseChat, Failure, Sender, State } from "eclipse-chat";

/** A message as the element has it. */
export interface ReceivedMessage {
  /** The message's id. */
  key: string;
  /** When it was saved, in milliseconds since 1970. */
  at: number;
  /** Lower case. */
  role: string;
  content: string;
  sender?: Partial<Sender> | null;
}

/** The element's events, by name. They don't bubble. */
export interface EclipseChatElementEventMap {
  open: CustomEvent<null>;
  close: CustomEvent<null>;
  /** A message of somebody else that has just arrived. */
  message: CustomEvent<ReceivedMessage>;
  /** How many messages are unread. */
  unread: CustomEvent<number>;
  state: CustomEvent<State>;
  /** What went wrong, such as a token URL that refuses. */
  error: CustomEvent<Failure>;
  /** The person wants to go on after the chat has ended: set another `chatId`, or the same chat is connected again. Cancelable. */
  restart: CustomEvent<null>;
}

type AllEvents = EclipseChatElementEventMap & Omit<HTMLElementEventMap, keyof EclipseChatElementEventMap>;

/** Texts of the element by name, for example `title`; docs/widget.md lists them. */
export type Texts = Record<string, string>;

export declare class EclipseChatElement extends HTMLElement {
  tokenUrl: string;
  chatId: string;
  historyUrl: string;
  url: string;
  /** Who writes. Default: `user`. */
  as: string;
  inline: boolean;
  /** Whether the panel is open; set it to open or close the panel. */
  open: boolean;
  /** Connect when the panel is first opened. */
  lazy: boolean;
  theme: string;
  noTitle: boolean;
  get texts(): Texts;
  set texts(texts: Partial<Texts> | string | null | undefined);
  /** The text in the field. */
  draft: string;
  /** The longest random delay after a server's planned restart, in milliseconds. */
  spread: number;
  /** The corner of the page: `end` (the default) or `start`. */
  side: string;
  /** The client, once the element is connected and knows its token URL and chat. */
  readonly chat: EclipseChat | undefined;
  readonly unread: number;
  readonly isOpen: boolean;
  show(): void;
  hide(): void;
  send(text: string): void;
  addEventListener<Type extends keyof AllEvents>(
    type: Type,
    listener: (this: EclipseChatElement, event: AllEvents[Type]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject, options?: boolean | AddEventListenerOptions): void;
  removeEventListener<Type extends keyof AllEvents>(
    type: Type,
    listener: (this: EclipseChatElement, event: AllEvents[Type]) => void,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(type: string, listener: EventListenerOrEventListenerObject, options?: boolean | EventListenerOptions): void;
}

declare global {
  interface HTMLElementTagNameMap {
    "eclipse-chat": EclipseChatElement;
  }
}
