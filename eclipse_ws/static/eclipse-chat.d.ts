// Built by `make web` from web/src

/** What a token URL, or a `token` function, answers. */
export interface Grant {
	/** The signed token. */
	token: string;
	/** `wss://...`; not needed where `url` is given to `connect`. */
	wsUrl?: string;
	/** Whose token it is. */
	userId?: string | number;
}
export interface CommonOptions {
	/** The chat; added to `tokenUrl` as `chatId=`, and what unsent messages are stored under. */
	chatId?: string;
	/** The server's absolute address (`wss://...`), instead of the `wsUrl` that comes with the token. */
	url?: string | URL;
	/** Who this client speaks as. Default: `"USER"`. */
	role?: Role;
	/** What the server tells only on request: who is there, and who has read what. A server that doesn't know them tells neither. */
	events?: readonly ("presence" | "read")[];
	/** Put the token into `Sec-WebSocket-Protocol` rather than into the address, so that no log sees it. */
	subprotocol?: boolean;
	/** Where unsent messages survive a reload. Default: `sessionStorage`; `null`, or neither a `chatId` nor a `tokenUrl`: memory alone. */
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
/**
 * Either an address that answers a {@link Grant} as JSON, or a function that gives one. Asked before every connect; `signal` is aborted after 10 s,
 * and as soon as the answer is of no use any more.
 */
export type Options = CommonOptions & ({
	tokenUrl: string | URL;
	token?: undefined;
} | {
	token: TokenFunction;
	tokenUrl?: undefined;
});
/** `chatId`: the chat that the token has to open; that of the options, or one that is joined. */
export type TokenFunction = (context: {
	signal: AbortSignal;
	chatId?: string;
}) => Promise<Grant> | Grant;
/**
 * What is different for a joined chat: everything else is as it was given to `connect`. The chat is joined with the session's own token; where
 * that doesn't open it, or `token` or `tokenUrl` is given here, with one that is asked for with this `chatId`. It has to be of the same user.
 */
export interface JoinOptions extends Pick<CommonOptions, "role" | "storage" | "limit"> {
	/** The last cursor that the page has of this chat: what came after it is sent, and `reload` only comes where that is impossible. */
	cursor?: string;
	tokenUrl?: string | URL;
	token?: TokenFunction;
}
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
	/** Text, also where the application has numbers. */
	id: string;
	content: string;
	/** Lower case: `user`, `assistant`, `agent`. */
	role: string;
	/** When the application saved it, ISO 8601. */
	timestamp: string;
	sender: Sender | null;
	updatedAt?: string;
}
export interface OnlineUser {
	userId: string;
	/** Lower case: `user`, `assistant`, `agent`. */
	role: string;
	/** ISO 8601. */
	since?: string;
}
/** A user has read everything up to this message. */
export interface ReadPosition {
	userId: string;
	role: string;
	messageId: string;
}
/** A message as the application's history has it: all that `history()` and `isMine()` look at. */
export interface SavedMessage {
	id: string | number;
	content?: string;
	role?: string;
	sender?: {
		id?: string | number | null;
	} | null;
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
	/** The id of the event that is taken for this message's echo, until the server's `ack` decides. */
	id?: string;
	/** When it was written, or sent again on purpose; milliseconds since 1970. */
	at: number;
	/** The id of the last message that was known then; `""`: none. */
	after: string;
}
export interface Failure {
	error: string;
	/**
	 * The client's own codes: `token_refused` (the token URL answered 401 or 403), `token_not_found` (404), `token_failed` (no usable answer), `bad_url` (the server's
	 * address is missing, not absolute, or not secure on a secure page) and `connect_failed`. All others are the server's.
	 */
	code?: string;
	/** It may pass by itself. The client connects again in any case. */
	retryable?: boolean;
	retryAfter?: number;
	clientMessageId?: string;
}
/** Every event's name and the `detail` that comes with it. */
export interface Events {
	state: {
		state: State;
		code?: number;
		reason?: string;
		retryIn?: number;
	};
	connected: {
		type: "connected";
		chatId?: string;
		timestamp: string;
		sessionId?: string;
		cursor?: string;
		recovered?: boolean;
		expiresAt?: string;
	};
	/** Something may have been missed: load the chat from the application, and hand it to `history()`. */
	reload: {
		reason: "connected" | "outcome_unknown";
	};
	message: {
		type: "message";
		data: Message;
		timestamp: string;
		cursor?: string;
	};
	message_updated: {
		type: "message_updated";
		data: Message;
		timestamp: string;
		cursor?: string;
	};
	message_deleted: {
		type: "message_deleted";
		data: {
			id: string;
			deletedAt?: string;
		};
		timestamp: string;
		cursor?: string;
	};
	typing: {
		type: "typing";
		data: {
			userId: string;
			isTyping: boolean;
		};
		timestamp: string;
	};
	/** A list of all who are there, a change, or in a crowd a new number: `online` and `onlineCount` have the outcome. */
	presence: {
		type: "presence";
		data: {
			users?: OnlineUser[];
			count?: number;
			userId?: string;
			role?: string;
			online?: boolean;
			since?: string;
		};
		timestamp: string;
	};
	/** Everybody's positions, or a new one: `positions` has the outcome. */
	read: {
		type: "read";
		data: {
			positions?: ReadPosition[];
			userId?: string;
			role?: string;
			messageId?: string;
		};
		timestamp: string;
	};
	agent_joined: {
		type: "agent_joined";
		data: {
			agentId: string;
			agentName: string;
			timestamp: string;
		};
		timestamp: string;
		cursor?: string;
	};
	/** What `pending` holds has changed. */
	outbox: Outgoing[];
	/** Saved: the message has an id. */
	sent: {
		clientMessageId: string;
		id: string;
		delivery?: "published" | "local";
	};
	/** Not sent, and not sent again by itself. */
	failed: {
		clientMessageId: string;
		error: string;
		code: string;
		retryable: boolean;
	};
	/** What went wrong and is tried again: a token URL that can't be reached, a refused command, a limit. */
	error: Failure;
	/** An event of a type that the client does not know. */
	event: {
		type: string;
		[field: string]: unknown;
	};
}
/** Connect, and stay connected for ever. */
export declare const connect: (options: Options) => EclipseChat;
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
	joined(agent?: {
		agentId?: string;
		agentName?: string;
	}): void;
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
export declare class EclipseChat extends EventTarget {
	constructor(options: Options);
}

export {};
