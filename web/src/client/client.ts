// The chat as a page sees it: what it says, what it hears, and which of both belong together.
import { emit, takeSeat, type Line } from "./line.ts";
import { change, closeOutbox, find, isKnown, load, matches, openOutbox, owns, randomId, remember, remove, repaired, senderId, underWay, update, type Item, type Outbox } from "./outbox.ts";
import { forget, isNew, isUpTo, last, type Seen } from "./seen.ts";
import { closeCost, errorCost, isOfMessage, MOST_TRIES } from "./tries.ts";
import { READ_REPEAT_MS, TYPING_PAUSE_MS, TYPING_REPEAT_MS } from "./typing.ts";
import type { Events, JoinOptions, OnlineUser, Options, Outgoing, ReadPosition, Role, SavedMessage, State } from "./types.ts";

const FORGOTTEN = 240_000; // the server knows a clientMessageId for five minutes
const SILENCE = 30_000;
const UNKNOWN = "outcome_unknown";
/** How many users and positions are kept. */
const MOST_USERS = 1_000;

/** Connect, and stay connected for ever. */
export const connect = (options: Options): EclipseChat => new EclipseChat(options);

export interface EclipseChat {
  readonly state: State;
  /** The user of the current token; `""` before the first. */
  readonly userId: string;
  /** The server's name for the session; a server of the previous generation gives none. */
  readonly sessionId: string | undefined;
  /** What is not yet known to be saved, oldest first. */
  readonly pending: Outgoing[];
  /**
   * Who is in the chat now, this user among them, the first to come first: at most the first hundred of a crowd. Empty without a connection
   * and without the option `events: ["presence"]`, and with a server that doesn't tell.
   */
  readonly online: readonly OnlineUser[];
  /** How many there are. */
  readonly onlineCount: number;
  /** Up to where everybody has read, as far as was told, never going back; empty without the option `events: ["read"]`, and with a server that doesn't tell. */
  readonly positions: readonly ReadPosition[];
  /**
   * Queue a message and answer its clientMessageId. It is sent now or as soon as there is a connection, in order, and again until
   * the server has acknowledged it. Text that is not well-formed Unicode is repaired with U+FFFD, NUL is removed.
   * @throws TypeError if it is blank, RangeError if `limit` messages are waiting already, Error if the chat is closed
   */
  send(content: string, role?: Role): string;
  /** Send a failed message again, as the last one; answers its clientMessageId, a new one where the outcome was unknown, `""` if there is no such message. */
  retry(clientMessageId: string): string;
  /** Give a waiting or failed message up; answers its content, so that it can be edited, or `""` if there is no such message or it is under way. */
  discard(clientMessageId: string): string;
  /** Call it on every key; `false` when the field is empty. It is throttled, and ends by itself after 4 s. */
  typing(on?: boolean): void;
  /** Announce an agent, now or with the next connection. */
  joined(agent?: { agentId?: string; agentName?: string }): void;
  /**
   * Tell that this user has read everything up to this message, now or with the next connection; at most once a second, and never an earlier message
   * than before. Without the option `events: ["read"]`, and with a server that doesn't know it, nothing is told.
   */
  read(messageId: string | number): void;
  /** Hand over what the application has saved, oldest first; it settles messages whose outcome was unknown. */
  history(messages: readonly SavedMessage[]): void;
  /** Whether this client's user wrote the message, as far as acknowledgements, echoes and tokens tell. */
  isMine(message: SavedMessage): boolean;
  /**
   * Take part in one more chat, over the same socket. What it answers has its own outbox, events and state; its `close()` leaves the chat.
   * Where two parts of a page show the same chat, each may join and close it. Over a closed connection, it is closed, too.
   */
  join(chatId: string, options?: JoinOptions): EclipseChat;
  /** Listen; the answer stops listening. */
  on<T extends keyof Events>(type: T, listener: (detail: Events[T]) => void): () => void;
  addEventListener<T extends keyof Events>(type: T, listener: (event: CustomEvent<Events[T]>) => void, options?: boolean | AddEventListenerOptions): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | AddEventListenerOptions): void;
  /**
   * End it: the connection, and all chats that were joined over it; or, of a joined chat, this chat alone. Unsent messages stay in
   * the storage, for the next `connect` or `join` of the chat.
   */
  close(code?: number, reason?: string): void;
}

export class EclipseChat extends EventTarget {
  constructor(options: Options) {
    super();
    // `join` gives the line, too, which is nobody else's.
    Object.assign(this, start(this, options, arguments[1]));
  }
}

/** A user's entry in place of the one before, or gone. */
const replace = <T extends { userId: string }>(list: readonly T[], entry: T, isThere = true): T[] =>
  [...list.filter(({ userId }) => userId != entry.userId), ...(isThere ? [entry] : [])].slice(-MOST_USERS);

const Joined = EclipseChat as new (options: Options, line: Line) => EclipseChat;

/** Everything that a chat does, as the functions that become its methods. */
const start = (chat: { -readonly [name in keyof EclipseChat]: EclipseChat[name] }, given: Options & { cursor?: string }, shared?: Line) => {
  let session;
  try {
    session = globalThis.sessionStorage; // may throw
  } catch {}
  const { role: ownRole = "USER", storage = session, limit = 1000, spread = 20_000, WebSocket = globalThis.WebSocket, ...others } = given;
  const options = { ...others, spread, WebSocket };
  if (!options.tokenUrl && !options.token) throw new TypeError("connect() needs tokenUrl or token");
  if (!options.WebSocket) throw new TypeError("No WebSocket here: pass one");
  chat.state = "connecting";
  chat.userId = chat.sessionId = "";
  chat.online = chat.positions = [];
  chat.onlineCount = 0;

  const seen: Seen = new Set();
  let agent: object | undefined; // to be announced
  let echoSender = ""; // of the event that is taken for the echo of the message under way
  let pace: any;
  let reached: { messageId: string; cursor: string } | undefined; // what this user has read
  let toldRead: typeof reached; // the same as the server was last told
  let isHeard = false; // the server knows `read`
  let readTimer: any;
  let typed = 0;
  let typingTimer: any;

  const changed = () => {
    chat.pending = load(outbox).out.map(({ owner, sent, resend, tries, ...item }) => item);
    emit(chat, "outbox", chat.pending);
    flush();
  };

  const queue = (clientMessageId: string, content: string, role: Role, replaced?: string) => {
    if (chat.state == "closed") throw Error("The chat is closed: connect() anew");
    typed = 0;
    change(outbox, (stored) => {
      remove(stored, replaced);
      stored.out.push({ clientMessageId, content, role, status: "waiting", at: Date.now(), after: last(seen), sent: 0, tries: 0, owner: outbox.id });
    });
    hurry();
    return clientMessageId;
  };

  const settle = ({ clientMessageId }: Item, id: string, sender: string, delivery?: "published" | "local") =>
    change(outbox, (stored) => {
      remove(stored, clientMessageId);
      remember(stored, "saved", id);
      remember(stored, "senders", sender);
      emit(chat, "sent", { clientMessageId, id, delivery });
    });

  const fail = (item: Item, error = "No answer from the server", code = UNKNOWN, retryable = false) => {
    const { clientMessageId } = item;
    update(outbox, item, { status: "failed", code, id: undefined });
    emit(chat, "failed", { error, code, retryable, clientMessageId });
    if (code == UNKNOWN) emit(chat, "reload", { reason: code });
  };

  /** Note that an attempt to send it has failed; after the last one it goes out again only on purpose. */
  const release = (item: Item, cost: number, error?: string, code?: string, changes?: Partial<Item>) => {
    const tries = item.tries + cost;
    if (cost && tries >= MOST_TRIES) fail(item, error, code, !!code);
    else update(outbox, item, { status: "waiting", tries, ...changes });
  };

  const pause = (ms: number) => {
    pace = setTimeout(() => {
      pace = 0;
      flush();
    }, ms);
  };

  const flush = () => {
    // One at a time: for the order, and for answers without a name.
    if (!isOpen() || underWay(outbox) || pace) return;
    const item = load(outbox).out.find((item) => item.status == "waiting" && owns(outbox, item));
    if (!item) return;
    if (item.sent && (!chat.sessionId || Math.abs(Date.now() - item.sent) > FORGOTTEN)) return fail(item);
    if (!take()) return pause(125);
    const { clientMessageId, content, role } = item;
    const resend = !!item.sent || undefined;
    update(outbox, item, { status: "sending", owner: outbox.id, resend, sent: Date.now(), code: undefined });
    put({ type: "message", content, role, clientMessageId, resend });
  };

  const announce = () => {
    if (!agent || !isOpen()) return;
    put(agent);
    agent = undefined;
  };

  const tellRead = () => {
    if (!isHeard || !reached || reached == toldRead || readTimer) return;
    put({ type: "read", ...(toldRead = reached) });
    readTimer = setTimeout(() => {
      readTimer = 0;
      tellRead();
    }, READ_REPEAT_MS);
  };

  const readBy = (data: any) => {
    const { positions = [data] }: { positions?: ReadPosition[] } = data;
    for (const entry of positions) {
      // A node that doesn't hear the others tells what it knew last, until it notices.
      if (!chat.positions.some(({ userId, messageId }) => userId == entry.userId && isUpTo(seen, entry.messageId, messageId)))
        chat.positions = replace(chat.positions, entry);
    }
    if (!data.positions) return;
    isHeard = true;
    // What was told just before the connection broke may be lost; another tab may have read further.
    if (!positions.some(({ userId, messageId }) => userId == chat.userId && isUpTo(seen, reached?.messageId, messageId))) toldRead = undefined;
    tellRead();
  };

  const present = ({ users, count, online, ...user }: any) => {
    chat.online = users ?? (user.userId == null ? chat.online : replace(chat.online, user, online));
    chat.onlineCount = count ?? chat.online.length;
  };

  const refused = (event: any) => {
    const { error, code, retryable, retryAfter = 2, clientMessageId } = event;
    if (code == "unknown_message") return; // of `read`: the server has forgotten it, and nobody can do anything about it
    const item = clientMessageId ? find(outbox, clientMessageId) : isOfMessage(error, retryable) && underWay(outbox);
    if (item && (!retryable || (code == UNKNOWN && !item.resend))) return fail(item, error, code ?? "failed", retryable);
    emit(chat, "error", event);
    if (!item || item.status != "sending") return;
    const cost = errorCost(code);
    const wait = Math.min(600, Math.max(retryAfter, 2 ** (item.tries + cost) - 1));
    if (item.tries + cost < MOST_TRIES) pause((wait + Math.random() / 2) * 1000);
    // It was answered: only what was sent before it without an answer is sent again as such.
    release(item, cost, error, code, { id: undefined, sent: item.resend ? item.sent : 0 });
  };

  /** A message was saved, changed or deleted. */
  const saved = (event: any) => {
    const { type, data } = event;
    const head = underWay(outbox);
    const sender = senderId(data);
    // Also where the application has numbers.
    data.id = String(data.id);
    if (sender) data.sender.id = sender;
    if (type == "message") {
      // Who has written a message that was confirmed is what the application calls this client's user.
      if (outbox.stored.saved.includes(data.id) && !outbox.stored.senders.includes(sender)) change(outbox, (stored) => remember(stored, "senders", sender));
      // The ack decides, or the echo where there is none.
      if (head && (!head.id || isKnown(outbox, sender)) && matches(outbox, data, head, chat.userId)) {
        head.id = data.id;
        echoSender = sender;
        changed();
      }
    } else if (type == "message_deleted") {
      const before = last(seen, data.id);
      forget(seen, data.id);
      change(outbox, ({ out }) => {
        for (const item of out) if (item.after == data.id) item.after = before;
      });
    }
    emit(chat, type, event);
    if (head && head.id == data.id && !chat.sessionId) settle(head, data.id, sender);
  };

  const frame = (event: any) => {
    const { type, data } = event;
    const isOurs = /^(message(_updated|_deleted)?|typing|agent_joined)$/.test(type);
    if (type == "connected") {
      emit(chat, type, event);
      if (!event.recovered && event.chatId != null) emit(chat, "reload", { reason: type });
      announce();
      flush();
    } else if (type == "ack") {
      const item = find(outbox, event.clientMessageId);
      const id = String(event.id);
      if (item) settle(item, id, item.id == id ? echoSender : "", event.delivery);
    } else if (type == "error") refused(event);
    else if (isOurs && /^m/.test(type)) {
      if (data?.id && isNew(seen, `${type} ${data.id}${type == "message_updated" ? " " + data.updatedAt : ""}`)) saved(event);
    } else if (options.events?.includes(type) && data) {
      (type == "read" ? readBy : present)(data);
      emit(chat, type, event);
    } else if (!/^(pong|refreshed)$/.test(type)) emit(chat, isOurs ? type : "event", event);
  };

  const lost = (code: number) => {
    const head = underWay(outbox);
    typed = 0;
    clearTimeout(typingTimer);
    pace = clearTimeout(pace);
    readTimer = clearTimeout(readTimer);
    isHeard = false;
    present({ users: [] });
    // What a page writes as it is left may come after what the next one has written.
    if (head && code < 0) head.status = "waiting";
    else if (head && code == 1009) fail(head, "Message too long", "content_too_long");
    else if (head) release(head, closeCost(code));
    else changed();
    if (chat.state == "closed") closeOutbox(outbox);
  };

  const typing = (on = true) => {
    clearTimeout(typingTimer);
    if (!isOpen()) return;
    if (on) typingTimer = setTimeout(typing, TYPING_PAUSE_MS, false);
    const now = performance.now();
    if (on ? typed && now - typed < TYPING_REPEAT_MS : !typed) return;
    typed = on ? now : 0;
    put({ type: "typing", isTyping: on });
  };

  // Without a name, another chat would find what this one has left.
  const name = options.chatId ?? options.tokenUrl;
  const outbox: Outbox = openOutbox(name == null ? null : storage, "eclipse-chat:" + name, changed);
  const user = () => change(outbox, (stored) => remember(stored, "mine", chat.userId));
  const isBusy = () => !!underWay(outbox);
  const isSilent = () => {
    flush(); // what another client has left
    const head = underWay(outbox);
    if (!head || silence(head.sent) < SILENCE) return false;
    if (chat.sessionId) release(head, 2);
    else fail(head);
    return !!chat.sessionId;
  };
  const { open, isOpen, put, hurry, close, take, silence, cursor, line } = takeSeat({ chat, options: options as any, user, frame, lost, isSilent, isBusy }, shared);
  open();

  return {
    typing,
    close,

    send: (content: string, role = ownRole) => {
      content = repaired(content);
      if (!content.trim()) throw TypeError("A message needs text");
      if (load(outbox).out.length >= limit) throw RangeError("Too many messages wait");
      typing(false);
      return queue(randomId(), content, role);
    },

    retry: (id: string) => {
      const item = find(outbox, id);
      if (item?.status != "failed") return "";
      // An outcome that is unknown stays so under its name.
      return queue(item.code == UNKNOWN ? randomId() : id, item.content, item.role, id);
    },

    discard: (id: string) => {
      const item = find(outbox, id);
      if (!item || item.status == "sending") return "";
      change(outbox, (stored) => remove(stored, id));
      return item.content;
    },

    read: (id: string | number) => {
      const messageId = String(id);
      if (isUpTo(seen, messageId, reached?.messageId)) return;
      reached = { messageId, cursor: cursor() };
      tellRead();
    },

    joined: (who?: object) => {
      agent = { type: "agent_joined", ...who };
      announce();
    },

    join: (chatId: string, more: JoinOptions = {}) => {
      const own = (more.token || more.tokenUrl) && { token: undefined, tokenUrl: undefined };
      return new Joined({ ...given, cursor: undefined, ...own, ...more, chatId: String(chatId) } as Options, line());
    },

    history: (saved: SavedMessage[]) => {
      const messages = [...(saved ?? [])].filter((message) => message?.id != null);
      for (const item of load(outbox).out.filter(({ code }) => code == UNKNOWN)) {
        // Only what came after it can be it.
        const known = messages.findIndex(({ id }) => String(id) == item.after);
        if (known < 0 && item.after) continue;
        const candidates = messages.slice(known + 1).filter((message) => matches(outbox, message, item, chat.userId));
        const found = candidates.find((message) => isKnown(outbox, senderId(message))) ?? candidates[0];
        if (found) settle(item, String(found.id), senderId(found));
      }
      for (const { id } of messages) {
        forget(seen, id);
        isNew(seen, "message " + id);
      }
    },

    isMine: (message: SavedMessage) =>
      isKnown(outbox, senderId(message)) || [...outbox.stored.saved, ...outbox.stored.out.map(({ id }) => id)].includes(String(message.id)),

    on: (type: string, listener: (detail: any) => void) => {
      const wrapped = (event: Event) => listener((event as CustomEvent).detail);
      chat.addEventListener(type, wrapped);
      return () => chat.removeEventListener(type, wrapped);
    },
  };
};
