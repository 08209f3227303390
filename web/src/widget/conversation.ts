import { connect } from "../client/index.ts";
import { loadHistory, type SavedMessage } from "./history.ts";
import type { Properties } from "./properties.ts";
import { Timeline } from "./timeline.ts";
import type { EclipseChat, Failure, Message, Role, Row, State } from "./types.ts";
import { addOwnUser, isOwnUser, Typists } from "./typists.ts";
import { Unread, type UnreadHooks } from "./unread.ts";

const MOST_DELETED = 1_000;
/** A short cut is nobody's business. */
const LATE = 2_500;
/** Codes of errors that keep the chat from connecting; those about one command are no news for people. */
const LINK = /^(token_|bad_url|connect_failed)/;

export interface Settings {
  tokenUrl: URL;
  chatId: string;
  role: Role;
  spread: number;
  events: ("presence" | "read")[];
  url: string | undefined;
  /** undefined: the application has no history. */
  historyUrl: URL | undefined;
  /** Over whose socket the chat is joined; undefined: over one of its own. */
  connection: EclipseChat | undefined;
}

/** What an element's attributes make of it; undefined if they don't say which chat, or where it is. */
export function settingsOf({ tokenUrl, chatId, as, spread, url, historyUrl, noPresence }: Properties, connection?: EclipseChat): Settings | undefined {
  if (!tokenUrl || !chatId) return;
  try {
    const base = new URL(tokenUrl, document.baseURI);
    return {
      tokenUrl: base,
      chatId,
      role: as.toUpperCase() as Role,
      spread,
      events: noPresence ? [] : ["presence", "read"],
      url: url || undefined,
      historyUrl: historyUrl == "none" ? undefined : new URL(historyUrl.replaceAll("{chatId}", () => encodeURIComponent(chatId)), base),
      connection,
    };
  } catch {} // not a URL
}

/** What a conversation tells and asks. */
export interface Hooks extends Pick<UnreadHooks, "isKept" | "counted"> {
  /** Something has to be drawn. */
  changed(): void;
  /** Somebody else has just written this message. */
  arrived(row: Row): void;
  joined(row: Row): void;
  /** A message was taken back: nothing may show it any more. */
  deleted(key: string): void;
  /** Whether somebody wants to see the chat. */
  isWanted(): boolean;
  /** Whether messages can be seen, in a page that can be seen. */
  isShown(): boolean;
}

/** One chat: puts what the client and the history tell into the timeline. */
export class Conversation {
  readonly chat: EclipseChat;
  readonly timeline = new Timeline();
  readonly typists: Typists;
  readonly unread: Unread;
  /** Earlier messages could not be loaded so far. */
  isIncomplete = false;
  /** No more messages can wait. */
  isFull = false;
  wasConnected = false;
  /** What keeps it from connecting. */
  problem: Failure | undefined;
  /** It has not been connected for a while. */
  isLate = false;
  readonly #settings: Settings;
  readonly #on: Hooks;
  readonly #deleted = new Set<string>();
  /** The last message of somebody else that was seen. */
  #read: string | undefined;
  /** Something may have been missed since the history was last loaded. */
  #isDue = true;
  /** The connection takes long: what the application has is shown without it. */
  #isWithoutLink = false;
  #loading = new AbortController();
  #timer: ReturnType<typeof setTimeout>;
  #lateTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(settings: Settings, on: Hooks) {
    this.#settings = settings;
    this.#on = on;
    this.typists = new Typists(on.changed);
    this.unread = new Unread(settings.chatId, {
      isKept: on.isKept,
      counted: on.counted,
      isSeeing: () => this.#isSeeing,
      rowsSince: (at) => this.timeline.order.filter((row) => row.at > at && !row.isJoin && !row.isDeleted && !this.isMine(row)),
    });
    const { connection, chatId, role } = settings;
    const isShared = connection && connection.state != "closed";
    const chat = (this.chat = isShared ? connection.join(chatId, { role }) : connect(settings));
    chat.on("state", ({ state }) => this.#state(state));
    chat.on("error", (failure) => {
      if (!LINK.test(failure.code ?? "")) return;
      this.problem = failure;
      on.changed();
    });
    this.timeline.said(chat.pending);
    chat.on("outbox", (pending) => {
      this.timeline.said(pending);
      on.changed();
    });
    chat.on("connected", () => addOwnUser(chat.userId));
    chat.on("reload", () => {
      this.#isDue = true;
      this.load();
    });
    chat.on("sent", ({ clientMessageId, id }) => {
      this.isFull = false;
      this.timeline.sent(clientMessageId, id); // the outbox follows
    });
    chat.on("message", ({ data }) => {
      const row = this.#take(data);
      if (!row || this.isMine(row)) return;
      if (row.sender?.id) this.typists.set(row.sender.id, false);
      this.unread.add(row);
      on.arrived(row);
    });
    chat.on("message_updated", ({ data }) => this.#take(data, true));
    chat.on("message_deleted", ({ data }) => this.#delete(String(data.id)));
    chat.on("agent_joined", ({ data, timestamp }) => {
      const at = data?.timestamp ?? timestamp;
      const sender = { id: data?.agentId, name: String(data?.agentName || "") };
      const row: Row = { key: `joined ${at} ${sender.id}`, at: +new Date(at) || Date.now(), role: "agent", content: "", isJoin: true, sender };
      const isKnown = this.timeline.get(row.key);
      this.timeline.put(row);
      on.changed();
      if (!isKnown) on.joined(row);
    });
    chat.on("typing", ({ data }) => data && !isOwnUser(data.userId) && data.userId != chat.userId && this.typists.set(data.userId, data.isTyping));
    for (const type of ["presence", "read"] as const) chat.on(type, on.changed);
    // The history is asked for once connected, so that nothing falls between; but not later.
    this.#timer = setTimeout(() => {
      this.#isWithoutLink = true;
      this.load();
    }, 1_500);
    this.#state(chat.state);
  }

  /** Whether this page's person wrote it. A visitor is the only one in the role `user`; agents are told apart by who they are. */
  isMine(row: Row): boolean {
    const isVisitor = this.#settings.role == "USER";
    return !!row.status || (isVisitor && row.role == "user") || this.chat.isMine({ id: row.key, sender: row.sender ?? null });
  }

  /** Whether somebody in this role, in lower case, is on the other side: for a visitor those who answer, for them the visitor. */
  isOther(role: string): boolean {
    return (role == "user") != (this.#settings.role == "USER");
  }

  /** Load the history if it is wanted, and something may be missing. */
  async load(): Promise<void> {
    const { historyUrl } = this.#settings;
    if (!this.#isDue || !historyUrl || !(this.#isWithoutLink || this.isOver || this.chat.state == "open") || !(this.chat.pending.length || this.unread.isKnown || this.#on.isWanted())) return;
    this.#isDue = false;
    this.#loading.abort();
    const { signal } = (this.#loading = new AbortController());
    const messages = await loadHistory(historyUrl, signal, () => {
      this.isIncomplete = true;
      this.#on.changed();
    });
    if (signal.aborted) return;
    this.isIncomplete = false;
    this.chat.history(messages);
    for (const message of messages) this.#take(message);
    this.unread.loaded(messages.flatMap((message) => this.timeline.get(String(message?.id)) ?? []));
    this.#on.changed();
  }

  end(): void {
    this.#isDue = false;
    clearTimeout(this.#timer);
    clearTimeout(this.#lateTimer);
    this.#loading.abort();
    this.typists.clear();
    this.unread.clear();
    this.chat.close();
  }

  /** Whether it is closed for good: what was not sent never will be. */
  get isOver(): boolean {
    return this.chat.state == "closed";
  }

  get #isSeeing(): boolean {
    return this.timeline.following && this.#on.isShown();
  }

  /** If the reader is at the end, and looks, everything has been read. */
  see(): void {
    if (!this.#isSeeing) return;
    const { order } = this.timeline;
    this.unread.see(order);
    const key = order.findLast((row) => !row.isJoin && !row.isDeleted && !this.isMine(row))?.key;
    if (key && key != this.#read) this.chat.read((this.#read = key));
  }

  #state(state: State): void {
    if (state == "open") {
      this.wasConnected = true;
      this.problem = undefined;
    } else this.typists.clear();
    if (state == "open" || state == "closed") {
      clearTimeout(this.#lateTimer);
      this.#lateTimer = undefined;
      this.isLate = false;
      if (this.isOver) this.load();
    } else
      this.#lateTimer ??= setTimeout(() => {
        this.isLate = true;
        this.#on.changed();
      }, LATE);
    this.#on.changed();
  }

  /** Answers the row if it is new. */
  #take(data: Message | SavedMessage, isUpdate = false): Row | undefined {
    if (!data?.id || typeof data.content != "string") return;
    const { content, sender } = data;
    const key = String(data.id); // events have text
    const known = this.timeline.get(key);
    const updatedAt = data.updatedAt ?? known?.updatedAt;
    if (known && (known.isDeleted || (known.content == content && known.updatedAt == updatedAt) || updatedAt! < known.updatedAt!)) return;
    const saved = "createdAt" in data ? data.createdAt : undefined;
    const row: Row = { key, at: +new Date(saved ?? data.timestamp ?? "") || known?.at || Date.now(), role: String(data.role).toLowerCase(), content, sender };
    if (updatedAt) row.updatedAt = updatedAt;
    if (known?.isEdited || (known ? known.content != content : isUpdate)) row.isEdited = true;
    this.timeline.put(row);
    if (this.#deleted.has(key)) this.#delete(key);
    this.#on.changed();
    return known || this.#deleted.has(key) ? undefined : row;
  }

  #delete(key: string): void {
    this.#deleted.add(key);
    if (this.#deleted.size > MOST_DELETED) this.#deleted.delete(this.#deleted.values().next().value!);
    const known = this.timeline.get(key);
    if (known) this.timeline.put({ key, at: known.at, role: known.role, sender: known.sender, content: "", isDeleted: true });
    this.timeline.forget(key);
    this.unread.remove(key);
    this.#on.deleted(key);
    this.#on.changed();
  }
}
