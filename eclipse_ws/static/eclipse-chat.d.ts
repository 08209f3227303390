/** A chat client that never loses a message. An ES module without dependencies, for browsers and Node. */

/** What a token URL, or a `token` function, answers. */
export interface Grant {
  /** The signed token. */
  token: string;
  /** `wss://...`; not needed where `url` is given to `connect`. */
  wsUrl?: string;
  /** Whose token it is. Without it an echo of an own message can't be told from somebody else's. */
  userId?: string;
}

interface Common {
  /** The chat; added to `tokenUrl` as `chatId=`, and what unsent messages are stored under. */
  chatId?: string;
  /** The server's address, instead of the `wsUrl` that comes with the token. */
  url?: string | URL;
  /** Who this client speaks as. Default: `"USER"`. */
  role?: Role;
  /** Opt-in events, for example `"presence,read"`. */
  events?: string;
  /** Put the token into `Sec-WebSocket-Protocol` rather than into the address, so that no log sees it. */
  subprotocol?: boolean;
  /** Where unsent messages survive a reload. Default: `sessionStorage`; `null`: memory alone. */
  storage?: Pick<Storage, "getItem" | "setItem"> | null;
  /** The longest random delay after a server's planned restart (close code 1012), in milliseconds. Default: 20,000. */
  spread?: number;
  /** How many messages may wait. Default: 1,000. */
  limit?: number;
  /** Instead of the global `fetch`. */
  fetch?: typeof fetch;
  /** Instead of the global `WebSocket`, which Node has from version 22 on. */
  WebSocket?: unknown;
}

/** Either an address that answers a {@link Grant} as JSON, or a function that gives one. Asked before every connect. */
export type Options = Common &
  ({ tokenUrl: string | URL; token?: undefined } | { token: (context: { signal: AbortSignal }) => Promise<Grant> | Grant; tokenUrl?: undefined });

export type Role = "USER" | "ASSISTANT" | "AGENT";

/**
 * - `connecting`: a token is fetched, or the socket is being opened;
 * - `open`: the server has said `connected`;
 * - `waiting`: the next attempt comes by itself, after `retryIn` ms, when the browser is online again, when the tab becomes visible, or with the next `send`;
 * - `closed`: for good, by `close()` or because the application said so (close code 4003).
 */
export type State = "connecting" | "open" | "waiting" | "closed";

export interface Sender {
  id: string;
  name?: string | null;
  email?: string | null;
  avatar?: string | null;
}

export interface Message {
  id: string;
  content: string;
  /** Lower case: `user`, `assistant`, `agent`. */
  role: string;
  /** When the application saved it, ISO 8601. */
  timestamp: string;
  sender: Sender;
  updatedAt?: string;
}

/** A message that is not yet known to be saved. */
export interface Outgoing {
  /** Names the message until it has an `id`; the server saves one such name once. */
  clientMessageId: string;
  content: string;
  role: Role;
  /** `failed` ones wait for `retry()` or `discard()`; all others are sent, and sent again, by themselves. */
  status: "waiting" | "sending" | "failed";
  /** Why it failed; `outcome_unknown`: it may have been saved. */
  code?: string;
  /** The id of the event that looks like this message's echo, until the server's `ack` decides. */
  id?: string;
}

export interface Failure {
  error: string;
  code?: string;
  retryable?: boolean;
  retryAfter?: number;
  clientMessageId?: string;
}

/** Every event's name and the `detail` that comes with it. */
export interface Events {
  state: { state: State; code?: number; reason?: string; retryIn?: number };
  connected: { type: "connected"; chatId: string; timestamp: string; sessionId?: string; cursor?: string; recovered?: boolean; expiresAt?: string };
  /** Something may have been missed: load the chat from the application, and hand it to `history()`. */
  reload: { reason: "connected" | "outcome_unknown" };
  message: { type: "message"; data: Message; timestamp: string; cursor?: string };
  message_updated: { type: "message_updated"; data: Message; timestamp: string; cursor?: string };
  typing: { type: "typing"; data: { userId: string; isTyping: boolean }; timestamp: string };
  agent_joined: { type: "agent_joined"; data: { agentId: string; agentName: string; timestamp: string }; timestamp: string; cursor?: string };
  presence: { type: "presence"; data: { userId?: string; online?: boolean; users?: string[] }; timestamp: string };
  read: { type: "read"; data: { userId: string; messageId: string }; timestamp: string };
  pong: { type: "pong" };
  /** What `pending` holds has changed. */
  outbox: Outgoing[];
  /** Saved: the message has an id. */
  sent: { clientMessageId: string; id: string; delivery?: "published" | "local" };
  /** Not sent, and not sent again by itself. */
  failed: { clientMessageId: string; error: string; code: string; retryable: boolean };
  /** What went wrong and is being mended: an unreachable token URL, a refused command, a limit. */
  error: Failure;
  /** An event of a type that the client does not know. */
  event: { type: string; [field: string]: unknown };
}

export class EclipseChat extends EventTarget {
  constructor(options: Options);
  readonly state: State;
  /** The user of the current token. */
  readonly userId: string | undefined;
  /** The server's name for the session; a server of the previous generation gives none. */
  readonly sessionId: string | undefined;
  /** A copy of what is not yet known to be saved, oldest first. */
  readonly pending: Outgoing[];
  /**
   * Queue a message and answer its clientMessageId. It is sent now or as soon as there is a connection, in order, and again until
   * the server has acknowledged it.
   * @throws TypeError if it is blank, RangeError if `limit` messages are waiting already
   */
  send(content: string, role?: Role): string;
  /** Send a failed message again; answers its clientMessageId, a new one where the outcome was unknown, "" if there is no such message. */
  retry(clientMessageId: string): string;
  /** Give a waiting or failed message up. */
  discard(clientMessageId: string): void;
  /** Call it on every key; `false` when the field is empty. It is throttled, and ends by itself after 4 s. */
  typing(on?: boolean): void;
  /** Announce an agent, now or with the next connection. */
  joined(agent?: { agentId?: string; agentName?: string }): void;
  /** Say how far this user has read. */
  read(messageId: string): void;
  /** Hand over what the application has saved, oldest first; it settles messages whose outcome was unknown. */
  history(messages: { id: string; content: string; sender?: { id?: string } | null }[]): void;
  /** Listen; the answer stops listening. */
  on<T extends keyof Events>(type: T, listener: (detail: Events[T]) => void): () => void;
  addEventListener<T extends keyof Events>(type: T, listener: (event: CustomEvent<Events[T]>) => void, options?: boolean | AddEventListenerOptions): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | AddEventListenerOptions): void;
  /** End it. Unsent messages stay in the storage, for the next `connect` of this chat. */
  close(code?: number, reason?: string): void;
}

/** Connect, and stay connected for ever. */
export function connect(options: Options): EclipseChat;
