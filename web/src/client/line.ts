// The chats of one socket: the token's own, and those that are joined beside it. It knows nothing of messages.
import { clock, createConnection, mayPass, REFUSALS, type Link, type Resolved } from "./connection.ts";
import { fetchGrant } from "./token.ts";
import type { Events, State } from "./types.ts";

/** How many chats one `join` names at most. */
const MOST = 500;
const LONGEST_WAIT = 60_000;

/** What the line keeps true of a chat. */
export type Target = Link & { dispatchEvent(event: Event): boolean };

export const emit = <T extends keyof Events>(chat: Pick<Target, "dispatchEvent">, type: T, detail: Events[T]) => chat.dispatchEvent(new CustomEvent(type, { detail }));

/** A chat's own part: it hears what is about it. */
export interface Seat {
  chat: Target;
  options: Resolved;
  /** The chat has another `userId`. */
  user: () => void;
  /** An event has come, a greeting among them. */
  frame: (event: any) => void;
  /** The session is out of the chat, by this close code; 0: by ourselves; -1: the page goes into the back/forward cache, if it is not unloaded. */
  lost: (code: number) => void;
  /** Asked every 20 s: whether the socket has to be replaced. */
  isSilent: () => boolean;
  /** Whether somebody waits for the answer to a command. */
  isBusy: () => boolean;
  /** Filled in by its place: */
  room?: Room;
  /** It has been in the chat, or was told where it was: what is recovered is all that it has missed. */
  isKnown?: boolean;
  /** The server has one chat on each socket: take a socket of its own. What it answers closes it. */
  part?: () => () => void;
}

/** One chat on the socket: the same for all who take part in it here. */
interface Room {
  id: string;
  seats: Set<Seat>;
  /** The last that came; `""`: none. An ack may overtake events: its cursor is none to resume from. */
  cursor: string;
  /** The session is in it. */
  isIn: boolean;
  /** An answer is awaited: the server's to `join` or `leave`, or a token. */
  isAsked: boolean;
  /** Of the chat alone, where the session's own token does not open it. */
  token: string | undefined;
  needsToken: boolean;
  /** The token was made for this attempt. */
  isFresh: boolean;
  /** Attempts since the session was last in it. */
  tries: number;
  asked: number;
  timer: any;
}

export type Line = ReturnType<typeof createLine>;

/** A socket, at first for the token's own chat. */
const createLine = (options: Resolved) => {
  const link: Link = { state: "connecting", userId: "", sessionId: "" };
  const rooms = new Set<Room>();
  const parted: (() => void)[] = []; // how those are closed that have a socket of their own
  let due = false;
  let joins = false; // this socket has said `join`: events have a chatId
  let over = new AbortController(); // of this socket
  let recent = 0; // messages sent in the last second
  let heard = 0; // when the last frame came, and the last answer to a command
  let answered = 0;

  const roomOf = (id: string, needsToken = false) => {
    let room = [...rooms].find((room) => room.id == id);
    if (!room)
      rooms.add((room = { id, needsToken, seats: new Set(), cursor: "", isIn: false, isAsked: false, token: "", isFresh: false, tries: 0, asked: 0, timer: 0 }));
    return room;
  };
  const base = roomOf(options.chatId ?? "");
  const seats = () => [...rooms].flatMap((room) => [...room.seats]);

  const set = ({ chat }: Seat, state: State, why?: object) => {
    if (chat.state != state && chat.state != "closed") emit(chat, "state", { state: (chat.state = state), ...why });
  };

  const end = (seat: Seat, why: object) => {
    const room = seat.room!;
    room.seats.delete(seat);
    set(seat, "closed", why);
    seat.lost(0);
    sync();
    if (!seats().length) close();
  };

  /** Join and leave what has to be, once for all changes of a turn. */
  const sync = () => {
    if (!due) queueMicrotask(reconcile);
    due = true;
  };

  const reconcile = () => {
    due = false;
    const joined: object[] = [];
    const left: object[] = [];
    for (const room of rooms) {
      const { id, isIn, token, cursor } = room;
      const isWanted = !!room.seats.size;
      if (!isWanted) room.timer = clearTimeout(room.timer);
      if (room.isAsked || room.timer || (isWanted && isIn && [...room.seats].every(({ chat }) => chat.state == "open"))) continue;
      if (!isWanted && !isIn && room != base) rooms.delete(room);
      if (!isOpen() || !(isWanted || isIn)) continue;
      room.isAsked = true;
      if (!isWanted) left.push({ chatId: id });
      else {
        if (!isIn) for (const seat of room.seats) set(seat, "connecting");
        if (room.needsToken && !token) renew(room);
        else {
          room.asked = clock();
          joined.push({ chatId: id, cursor: (!isIn && cursor) || undefined, token: token || undefined });
        }
      }
    }
    say("join", joined);
    say("leave", left);
  };

  const say = (type: string, chats: object[]) => {
    while (chats.length) {
      joins = true;
      put({ type, chats: chats.splice(0, MOST) });
    }
  };

  const renew = async (room: Room) => {
    const { signal } = over;
    try {
      const { token } = await fetchGrant([...room.seats][0]!.options, signal);
      room.token = token;
      room.isFresh = true;
    } catch (error: any) {
      if (signal.aborted) return;
      const code = REFUSALS[error?.status] ?? "token_failed";
      tell(room, { error: error?.message ?? error, code, retryable: mayPass(code) });
      later(room, {}, error?.wait);
    }
    if (signal.aborted) return;
    room.isAsked = false;
    sync();
  };

  const tell = (room: Room, failure: any) => {
    for (const { chat } of [...room.seats]) emit(chat, "error", failure);
  };

  /** Join it again: at once, unless that was tried just before. `least`: seconds. */
  const later = (room: Room, why: object, least: unknown, isUrgent = false) => {
    const wait = Math.min(LONGEST_WAIT, 1_000 * 2 ** room.tries++) * (0.5 + Math.random() / 2);
    const retryIn = isUrgent && clock() - room.asked > 1_000 ? 0 : Math.max(wait, Math.min(+(least as number) || 0, 600) * 1_000);
    clearTimeout(room.timer);
    room.timer = setTimeout(() => {
      room.timer = 0;
      sync();
    }, retryIn);
    for (const seat of [...room.seats]) set(seat, "waiting", { ...why, retryIn });
  };

  /** The session is in the chat. */
  const enter = (room: Room, event: any) => {
    const { recovered, ...fresh } = event;
    room.tries = 0;
    room.isIn = true;
    room.isAsked = false;
    room.isFresh = false;
    room.cursor = event.cursor ?? room.cursor;
    for (const seat of [...room.seats]) {
      if (seat.chat.state == "open") continue;
      seat.chat.sessionId = link.sessionId;
      set(seat, "open");
      if (seat.chat.state != "closed") seat.frame({ ...(seat.isKnown ? event : fresh), type: "connected", sessionId: link.sessionId });
      seat.isKnown = true;
    }
  };

  /** The session is out of the chat: the server has taken it out, or, without a code, was asked to. */
  const left = (room: Room, { code, reason }: { code?: number; reason?: string }) => {
    room.isIn = false;
    if (!code) {
      room.isAsked = false;
      return;
    }
    if (code == 4002) {
      room.needsToken = true;
      room.token = "";
    }
    for (const seat of [...room.seats])
      if (code == 4003) end(seat, { code, reason });
      else seat.lost(code);
    if (room.seats.size) later(room, { code, reason }, 0, code == 4002 || code == 4010);
  };

  const refused = (room: Room, event: any) => {
    const { error, code, retryAfter } = event;
    room.isAsked = false;
    if (code == "not_joined") room.isIn = false;
    else if (code == "banned") for (const seat of [...room.seats]) end(seat, { code: 4003, reason: error });
    else if (/forbidden|token/.test(code) && !room.isFresh) {
      room.needsToken = true;
      room.token = "";
    } else {
      room.isFresh = false;
      room.token = "";
      tell(room, event);
      later(room, {}, retryAfter);
    }
  };

  const frame = (event: any) => {
    const { type, code, chatId, cursor, data, error, clientMessageId } = event;
    const isNamed = joins && chatId != null;
    const isError = joins && type == "error" && !clientMessageId;
    heard = Date.now();
    if (/^(ack|error)$/.test(type)) answered = heard;
    if (/^(connected|joined|left|error)$/.test(type)) sync();
    if (type == "connected") {
      base.id = String(chatId ?? base.id);
      // A token without a chat: that of the options is joined, and where there is none, the connection is all there is.
      if (chatId != null || !base.id) enter(base, event);
      return;
    }
    const named = isNamed ? [...rooms].filter(({ id }) => id == String(chatId)) : [];
    // An error without a chat is about the whole `join`.
    const refusals = isError ? (isNamed ? named : [...rooms]).filter(({ isAsked }) => isAsked) : [];
    if (!isNamed && (code == "unknown_type" || /unknown message type/i.test(error)) && refusals.length) {
      joins = false;
      for (const { seats } of refusals) for (const seat of [...seats]) parted.push(seat.part!());
    } else if (refusals.length) for (const room of refusals) refused(room, event);
    else
      for (const room of isNamed ? named : [base]) {
        if (isNamed && !data && type == "joined") enter(room, event);
        else if (isNamed && !data && type == "left") left(room, event);
        else {
          if (cursor && type != "ack") room.cursor = cursor;
          // What was sent as the session was taken out: it is sent again.
          if (isNamed && code == "not_joined") {
            event.retryable = true;
            if (room.isIn) left(room, { code: 4010 });
          }
          for (const seat of [...room.seats]) if (seat.chat.state != "closed") seat.frame(event);
        }
      }
  };

  const { open, isOpen, put, hurry, close } = createConnection(link, options, {
    frame,
    state: (state, why) => {
      if (state != "open") for (const seat of seats()) set(seat, state, why);
      if (state == "closed") for (const end of parted.splice(0)) end();
    },
    error: (failure) => {
      for (const { chat } of seats()) emit(chat, "error", failure);
    },
    user: () => {
      for (const seat of seats()) name(seat);
    },
    cursor: () => base.cursor,
    lost: (code) => {
      over.abort();
      over = new AbortController();
      joins = false;
      for (const room of rooms) {
        room.isIn = room.isAsked = false;
        room.timer = clearTimeout(room.timer);
      }
      for (const seat of seats()) seat.lost(code);
    },
    isSilent: () => seats().map(({ isSilent }) => isSilent()).includes(true),
    isBusy: () => seats().some(({ isBusy }) => isBusy()),
  });

  const name = (seat: Seat) => {
    seat.chat.userId = link.userId;
    seat.user();
  };

  return {
    hurry,
    isOpen: ({ chat, room }: Seat) => isOpen() && room!.isIn && chat.state == "open",
    put: ({ room }: Seat, command: object) => put(joins && room!.id ? { ...command, chatId: room!.id } : command),
    /** Give a seat a place: in the token's own chat, or in another one. */
    open: (seat: Seat, isJoined: boolean) => {
      const { chatId, cursor, tokenUrl, token } = seat.options;
      const room = (seat.room = isJoined ? roomOf(chatId!, tokenUrl != options.tokenUrl || token != options.token) : base);
      if (cursor && !room.cursor) {
        room.cursor = cursor;
        seat.isKnown = true;
      }
      room.seats.add(seat);
      if (!isJoined) open();
      else {
        if (link.state != "open") seat.chat.state = link.state;
        seat.lost(0); // the outbox is there
        if (link.userId) name(seat);
      }
      sync();
    },
    close: (seat: Seat, code = 1000, reason = "") => {
      if (seat.room == base && seat.options == options) close(code, reason);
      else if (seat.chat.state != "closed") end(seat, { code, reason });
    },
    /** Whether one more message may leave this second. */
    take: () => {
      if (recent == 8) return false;
      setTimeout(() => recent--, 1_000);
      return !!++recent;
    },
    /** For how long the server has answered signs of life, but no command, since then; in milliseconds. */
    silence: (since: number) => heard - Math.max(since, answered),
  };
};

/** All that a chat knows of its socket. `shared`: another one's, to join there; a chat of the token's own gets a new one. */
export const takeSeat = (seat: Seat, shared?: Line) => {
  const { options } = seat;
  let line = shared ?? createLine(options);
  seat.part = () => {
    seat.room!.seats.delete(seat);
    line = createLine(options);
    line.open(seat, false);
    return () => line.close(seat);
  };
  return {
    open: () => line.open(seat, !!shared),
    isOpen: () => line.isOpen(seat),
    put: (command: object) => line.put(seat, command),
    hurry: () => line.hurry(),
    close: (code?: number, reason?: string) => line.close(seat, code, reason),
    take: () => line.take(),
    silence: (since: number) => line.silence(since),
    cursor: () => seat.room!.cursor,
    line: () => line,
  };
};
