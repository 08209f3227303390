import type { Failure, Sender, State } from "eclipse-chat";

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
  /** The panel can be seen. */
  open: CustomEvent<null>;
  /** The panel can no longer be seen. */
  close: CustomEvent<null>;
  /** A message of somebody else that has just arrived. */
  message: CustomEvent<ReceivedMessage>;
  /** How many messages are unread. */
  unread: CustomEvent<number>;
  /** The state of the connection. */
  state: CustomEvent<State>;
  /** What went wrong, such as a token URL that refuses. */
  error: CustomEvent<Failure>;
  /** The person wants to go on after the chat has ended: set another `chatId`, or the same chat is connected again. Cancelable. */
  restart: CustomEvent<null>;
}
