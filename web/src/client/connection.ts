// One socket after the other: tokens, waits between attempts, signs of life. It knows nothing of messages.
import { fetchGrant, socketUrl } from "./token.ts";
import type { Failure, Grant, Options, State } from "./types.ts";

const BEAT = 20_000;
export const REFUSALS: Record<number, string> = { 401: "token_refused", 403: "token_refused", 404: "token_not_found" };

export const mayPass = (code: string) => /failed/.test(code);
export const clock = () => performance.now();

/** What the connection keeps true. */
export interface Link {
  state: State;
  userId: string;
  sessionId: string | undefined;
}

/** The options of a chat, with the defaults that a connection needs. */
export type Resolved = Options & { cursor?: string; spread: number; WebSocket: any };

export interface Hooks {
  state: (state: State, why: object | undefined) => void;
  error: (failure: Failure) => void;
  /** Where the next connection resumes; `""`: nowhere. */
  cursor: () => string;
  /** The link has a token, and its `userId`. */
  user: () => void;
  /** An event has come, a greeting among them. */
  frame: (event: any) => void;
  /** The socket is gone, by this close code; 0: by ourselves; -1: the page goes into the back/forward cache, if it is not unloaded. */
  lost: (code: number) => void;
  /** Asked every 20 s: whether the socket has to be replaced. */
  isSilent: () => boolean;
  /** Whether somebody waits for the answer to a command. */
  isBusy: () => boolean;
}

export const createConnection = (link: Link, options: Resolved, hooks: Hooks) => {
  let socket: WebSocket | undefined;
  let turn = new AbortController(); // aborted when what is under way is given up
  let since = clock(); // of the outage
  let isHeld = false; // nothing may hurry the next attempt
  let isAsleep = false;
  let refusals = 0;
  let opened = 0;
  let tried = 0;
  let refreshAt = 0;
  let retryTimer: any;
  let fuse: any;

  const isOpen = () => link.state == "open" && !!socket;

  const put = (command: object) => {
    if (isOpen()) socket!.send(JSON.stringify(command));
  };

  const change = (next: State, why?: object) => {
    if (link.state != next && link.state != "closed") hooks.state((link.state = next), why);
  };

  const drop = (code = 0) => {
    const left = socket;
    turn.abort();
    const { signal } = (turn = new AbortController());
    clearTimeout(retryTimer);
    fuse = clearTimeout(fuse);
    socket = undefined;
    hooks.lost(code);
    if (left) {
      left.onmessage = left.onclose = null;
      left.close();
    }
    return signal;
  };

  const tell = (error: string, code: string) => hooks.error({ error, code, retryable: mayPass(code) });

  const open = async () => {
    if (link.state == "closed" || isAsleep) return;
    const mine = drop(); // a listener may close, or open anew
    let code = "token_failed";
    tried = clock();
    change("connecting");
    try {
      const grant = await fetchGrant(options, mine);
      if (!mine.aborted) {
        link.userId = String(grant.userId ?? "");
        hooks.user();
      }
      if (mine.aborted) return;
      code = "bad_url";
      const url = socketUrl(options.url ?? grant.wsUrl);
      code = "connect_failed";
      if (!options.subprotocol) url.searchParams.set("token", grant.token);
      if (options.events?.length) url.searchParams.set("events", options.events.join());
      if (hooks.cursor()) url.searchParams.set("cursor", hooks.cursor());
      const made: WebSocket = (socket = new options.WebSocket(url.href, options.subprotocol ? ["eclipse.v1", "bearer." + grant.token] : []));
      refusals = 0;
      made.onmessage = ({ data }) => frame(data);
      made.onclose = ({ code, reason }) => closed(code, reason);
      made.onerror = () => {};
      burn(15_000);
    } catch (error: any) {
      if (mine.aborted) return;
      code = REFUSALS[error?.status] ?? code;
      refusals = mayPass(code) ? 0 : refusals + 1;
      retry({}, error?.wait, refusals && Math.min(60_000, 1_000 * 2 ** refusals));
      tell(error?.message ?? error, code);
    }
  };

  const closed = (code: number, reason: string) => {
    const now = clock();
    const greeted = opened;
    const { spread } = options;
    if (opened) since = now - opened > 10_000 ? now : Math.max(since, now - 4_000);
    opened = 0;
    drop(code);
    if (code == 4003) return close(code, reason);
    retry({ code, reason }, code == 4009 ? 5 : 0, 0, code == 1012 ? spread : code == 4010 ? spread / 4 : 0);
    if (!greeted) tell(`Could not connect (${`${code} ${reason}`.trim()}). The server's log may say why`, "connect_failed");
  };

  /** `least`: seconds in which nothing hurries it; `most`, `spread`: milliseconds of which a part is waited. */
  const retry = (why: object, least: unknown, most: number, spread = 0) => {
    if (link.state == "closed") return; // by a listener
    const seconds = Math.min(Math.max(+(least as number) || 0, 0), 600);
    const patience = spread || Math.min(20_000, Math.max(500, clock() - since));
    const retryIn = seconds * 1000 + (most ? most * (0.5 + Math.random() / 2) : Math.random() * patience);
    if (spread) since = clock() + retryIn - 8_000;
    isHeld = seconds > 0;
    retryTimer = setTimeout(open, retryIn);
    change("waiting", { ...why, retryIn });
  };

  /** Connect now, if that is waited for. */
  const hurry = () => {
    if (link.state != "waiting" || isHeld || isAsleep) return;
    since = clock();
    clearTimeout(retryTimer);
    const early = tried + 1000 - since;
    if (early < 0) open();
    else retryTimer = setTimeout(open, early);
  };

  // Without an answer by then, the link is taken for dead.
  const burn = (ms: number) => (fuse ??= setTimeout(() => closed(0, ""), ms));

  const probe = (ms: number) => {
    if (!isOpen() || fuse) return;
    put({ type: "ping" });
    burn(ms);
  };

  // Compares clocks: a background tab's slow timers do no harm.
  const beat = () => {
    if (!isOpen()) return;
    if (hooks.isSilent()) return closed(0, "");
    probe(BEAT);
    if (refreshAt && clock() > refreshAt) refresh();
  };

  const refresh = async () => {
    const mine = turn.signal;
    refreshAt = clock() + BEAT;
    const grant = (await fetchGrant(options, mine).catch(() => {})) as Grant | undefined;
    if (mine.aborted || !grant) return;
    // Another user (a visitor's): the session ends in its time, and is resumed.
    if (String(grant.userId ?? "") == link.userId) put({ type: "refresh", token: grant.token });
    else refreshAt = 0;
  };

  const frame = (text: string) => {
    let event: any;
    try {
      event = JSON.parse(text);
    } catch {}
    if (!event?.type) return;
    const { type, expiresAt, timestamp } = event;
    fuse = clearTimeout(fuse);
    if (expiresAt && /^(connected|refreshed)$/.test(type)) refreshAt = clock() + (Date.parse(expiresAt) - Date.parse(timestamp)) * 0.9;
    if (type == "connected") {
      link.sessionId = event.sessionId;
      opened = clock();
      change("open");
    }
    if (link.state != "closed") hooks.frame(event);
  };

  const wake = ({ type }: Event) => {
    if (type == "pagehide") {
      isAsleep = true;
      drop(-1);
      change("waiting");
    } else if (type == "pageshow" && isAsleep) {
      isAsleep = false;
      open();
    } else if (!isAsleep && (!globalThis.document?.hidden || type == "online")) {
      hurry();
      probe(hooks.isBusy() ? 25_000 : 5_000);
    }
  };

  const listen = (how: "add" | "remove") => {
    for (const type of ["visibilitychange", "online", "offline", "pageshow", "pagehide"]) globalThis[`${how}EventListener`]?.(type, wake);
  };

  const close = (code = 1000, reason = "") => {
    if (link.state == "closed") return;
    change("closed", { code, reason });
    drop();
    clearInterval(beats);
    listen("remove");
  };

  const beats: any = setInterval(beat, BEAT);
  beats.unref?.();
  listen("add");
  return { open, isOpen, put, hurry, close };
};
