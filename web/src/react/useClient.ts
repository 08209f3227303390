// What both hooks share: one client for one set of options, for as long as the component is mounted.
import { useEffect, useRef, useState, useSyncExternalStore } from "react";
import { connect, type EclipseChat, type Events, type JoinOptions, type Options } from "eclipse-chat";

/** What a hook needs to follow a client. Nothing is heard or shown after the client's end. */
export interface Link<View, Latest> {
  chat: EclipseChat;
  on: <Type extends keyof Events>(type: Type, listener: (detail: Events[Type]) => void) => void;
  show: (change: Partial<View>) => void;
  /** The options of the latest render. */
  latest: { current: Latest };
}

/** Follows a new client; what it answers is called at the client's end. */
export type Follow<View, Latest> = (link: Link<View, Latest>) => (() => void) | void;

/** What a hook is given: options of `connect`, or of `join` with the client whose connection is shared, or null as long as there is none. */
export type Given = (Options & { connection?: undefined }) | (JoinOptions & { chatId: string; connection: EclipseChat | null });

const primitive = (name: string, value: unknown) => (name && Object(value) === value && !Array.isArray(value) ? undefined : value);

const names = new WeakMap<object, number>();
let named = 0;

/** Names an object among all: another client is another connection. */
const nameOf = (object: object) => {
  if (!names.has(object)) names.set(object, ++named);
  return names.get(object);
};

const make = ({ connection, ...options }: Given) => (connection ? connection.join(options.chatId!, options as JoinOptions) : connect(options as Options));

const createStore = <View extends object, Latest extends Given>(empty: View, follow: Follow<View, Latest>) => {
  const listeners = new Set<() => void>();
  let ends: ((() => void) | void)[] = [];
  let held = false;
  let shown = { key: "", chat: null as EclipseChat | null, view: empty };

  const set = (next: typeof shown) => {
    shown = next;
    for (const listener of listeners) listener();
  };
  const show = (change: Partial<View>) => set({ ...shown, view: { ...shown.view, ...change } });
  const end = () => {
    for (const each of ends) each?.();
    ends = [];
    shown.chat?.close();
    set({ key: "", chat: null, view: empty });
  };
  const start = (key: string, latest: { current: Latest }) => {
    const options: any = { ...latest.current };
    for (const name of ["token", "fetch"] as const) if (options[name]) options[name] = (...given: any[]) => (latest.current as any)[name](...given);
    const chat = make(options);
    const on: Link<View, Latest>["on"] = (type, listener) => ends.push(chat.on(type, listener));
    set({ key, chat, view: empty });
    ends.push(follow({ chat, on, show, latest }));
  };

  return {
    read: () => shown,
    chat: () => shown.chat,
    show,
    subscribe: (listener: () => void) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    /** Keeps a client for the options that the key stands for; an empty key asks for none. */
    hold: (key: string, latest: { current: Latest }) => {
      if (shown.key != key) {
        end();
        if (key) start(key, latest);
      }
      held = true;
      // StrictMode and fast refresh run the effect again at once, and keep their client.
      return () => {
        held = false;
        queueMicrotask(() => held || end());
      };
    },
  };
};

/** Where a hook's view is kept: it outlives the component's renders. */
export type Store<View> = Pick<ReturnType<typeof createStore<View & object, Given>>, "chat"> & { show: (change: Partial<View>) => void };

/**
 * Connects in an effect, and closes when the component is unmounted. Options are compared by value; the functions and
 * objects among them may be new on every render, and the latest are called. Answers the view and the actions, which stay the same functions.
 */
export const useClient = <View extends object, Latest extends Given, Actions>(
  enabled: boolean,
  options: Latest,
  empty: View,
  follow: Follow<View, Latest>,
  makeActions: (store: Store<View>) => Actions,
) => {
  const [[store, actions]] = useState(() => {
    const store = createStore(empty, follow);
    return [store, makeActions(store)] as const;
  });
  const latest = useRef(options);
  const { connection } = options;
  const key = enabled && connection !== null ? JSON.stringify({ ...options, connection: connection && nameOf(connection) }, primitive) : "";
  useEffect(() => {
    latest.current = options;
  });
  useEffect(() => store.hold(key, latest), [key]);
  const shown = useSyncExternalStore(store.subscribe, store.read, store.read);
  // Until the effect has run, the store's client is another chat's.
  const { chat, view } = shown.key == key ? shown : { chat: null, view: empty };
  return { chat, ...view, ...actions };
};
