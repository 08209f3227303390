import type { EclipseChat, Failure, Message, OnlineUser, Outgoing, ReadPosition, State } from "eclipse-chat";
import { TYPING_EXPIRY_MS } from "../client/typing.js";
import { type Follow, type Given, type Store, useClient } from "./useClient.js";

/** A message as the application's history has it: like {@link Message}, its time under either name. */
export interface HistoryMessage {
  id: string | number;
  content: string;
  role: string;
  timestamp?: string | number | Date;
  createdAt?: string | number | Date;
  updatedAt?: string;
  sender?: Partial<Message["sender"]> | null;
}

/**
 * The options of `connect`; or those of `join`, a `chatId`, and as `connection` the client whose socket this chat shares: the `chat` of another
 * `useEclipseChat`, for example. While that is null, this one is `connecting`.
 */
export type UseEclipseChatOptions = Given & {
  /** `false`: no connection. Default: `true`. */
  enabled?: boolean;
  /**
   * Loads the chat's saved messages, in any order: on the first connect, and whenever something may have been missed.
   * If it throws, it is called again.
   */
  loadHistory?: (context: { signal: AbortSignal }) => Promise<HistoryMessage[]>;
};

export interface EclipseChatView {
  /** The client, for everything else; `null` until the component is mounted. */
  chat: EclipseChat | null;
  state: State;
  /** What is saved, oldest first: the history, and what has arrived since. */
  messages: Message[];
  /** What this page has sent and `messages` doesn't have yet, oldest first. */
  pending: Outgoing[];
  /** What last went wrong with the connection or the history; `null` once it is open, and once the history is there. */
  error: Failure | null;
  /** The ids of the users who are typing. */
  typists: string[];
  /** Who is there now, with the option `events: ["presence"]`. */
  online: readonly OnlineUser[];
  onlineCount: number;
  /** Up to where everybody has read, with the option `events: ["read"]`. */
  positions: readonly ReadPosition[];
  /** Sends a message now, or as soon as there is a connection; answers its clientMessageId, "" if there is no chat. */
  send: EclipseChat["send"];
  /** Sends a failed message again. */
  retry: EclipseChat["retry"];
  /** Gives a waiting or failed message up. */
  discard: (clientMessageId: string) => string;
  /** Call it on every key; `false` when the field is empty. */
  typing: EclipseChat["typing"];
  /** Call it with the last message that somebody has seen. */
  read: EclipseChat["read"];
}

type Actions = Pick<EclipseChatView, "send" | "retry" | "discard" | "typing" | "read">;
type View = Omit<EclipseChatView, "chat" | keyof Actions>;

const MOST_TYPISTS = 50;
const LONGEST_WAIT_MS = 30_000;

const empty: View = { state: "connecting", messages: [], pending: [], error: null, typists: [], online: [], onlineCount: 0, positions: [] };

/** Times in one format, so that they can be compared as text. */
const tidy = (message: HistoryMessage | Message) =>
  ({
    ...message,
    id: `${message.id}`,
    role: message.role.toLowerCase(),
    timestamp: new Date(message.timestamp ?? (message as HistoryMessage).createdAt ?? 0).toJSON() ?? "",
  }) as Message;
const older = (a: Message, b: Message) => (a.timestamp < b.timestamp || (a.timestamp == b.timestamp && a.id < b.id) ? -1 : 1);

const follow: Follow<View, UseEclipseChatOptions> = ({ chat, on, show, latest }) => {
  const ended = new AbortController();
  const known = new Map<string, Message>();
  const saved = new Map<string, Outgoing>(); // own messages; their events may not have arrived yet
  const typists = new Map<string, ReturnType<typeof setTimeout>>();
  let touched = new Set<string>(); // since the history was asked for, which may be older
  let last = chat.pending;
  let loads = 0;
  let pause: ReturnType<typeof setTimeout> | undefined; // before the history is asked for again

  const showMessages = () => {
    show({
      messages: [...known.values()].sort(older),
      pending: [...saved.values(), ...last].filter(({ id }) => !known.has(id!)),
    });
  };
  const types = (userId: string, on: boolean) => {
    clearTimeout(typists.get(userId));
    typists.delete(userId);
    if (on && typists.size < MOST_TYPISTS) typists.set(userId, setTimeout(() => types(userId, false), TYPING_EXPIRY_MS));
    show({ typists: [...typists.keys()] });
  };
  const quiet = () => {
    for (const timer of typists.values()) clearTimeout(timer);
    typists.clear();
  };
  const take = ({ data }: { data: Message }) => {
    const message = tidy(data);
    touched.add(message.id);
    known.set(message.id, message);
    types(message.sender?.id as string, false);
    showMessages();
  };
  const reload = async () => {
    const turn = ++loads;
    clearTimeout(pause);
    const over = () => turn != loads || ended.signal.aborted;
    for (let wait = 1_000; latest.current.loadHistory && !over(); wait = Math.min(wait * 2, LONGEST_WAIT_MS)) {
      touched = new Set();
      try {
        const history = await latest.current.loadHistory({ signal: ended.signal });
        if (over()) return;
        const messages = history.map(tidy).sort(older); // the client goes by their order
        chat.history(messages);
        for (const message of messages) if (!touched.has(message.id)) known.set(message.id, message);
        show({ error: null });
        return showMessages();
      } catch (error) {
        if (over()) return;
        show({ error: { error: `loadHistory failed: ${error}`, code: "history_failed", retryable: true } });
        await new Promise((done) => (pause = setTimeout(done, wait * (0.5 + Math.random()))));
      }
    }
  };

  on("state", ({ state }) => {
    quiet();
    show({ state, typists: [], online: chat.online, onlineCount: chat.onlineCount, ...(state == "open" && { error: null }) });
  });
  on("reload", reload);
  on("message", take);
  on("message_updated", take);
  on("message_deleted", ({ data }) => {
    touched.add(data.id);
    known.delete(data.id);
    saved.delete(data.id);
    showMessages();
  });
  on("presence", () => show({ online: chat.online, onlineCount: chat.onlineCount }));
  on("read", () => show({ positions: chat.positions }));
  on("typing", ({ data }) => types(data.userId, data.isTyping));
  on("outbox", (pending) => {
    last = pending;
    showMessages();
  });
  on("sent", ({ clientMessageId, id }) => {
    for (const item of last) if (item.clientMessageId == clientMessageId) saved.set(id, { ...item, id });
  });
  on("error", (error) => show({ error }));
  showMessages();
  show({ state: chat.state });
  return () => {
    ended.abort();
    clearTimeout(pause);
    quiet();
  };
};

const makeActions = ({ chat }: Store<View>): Actions => ({
  send: (...given) => chat()?.send(...given) ?? "",
  retry: (id) => chat()?.retry(id) ?? "",
  discard: (id) => chat()?.discard(id) ?? "",
  typing: (on) => chat()?.typing(on),
  read: (id) => chat()?.read(id),
});

/** A chat in a React component. It connects when the component is mounted, and closes when it is unmounted. */
export const useEclipseChat = ({ enabled = true, ...options }: UseEclipseChatOptions): EclipseChatView => {
  const result = useClient(enabled, options as UseEclipseChatOptions, empty, follow, makeActions);
  return enabled ? result : { ...result, state: "closed" };
};
