// What is not yet known to be saved, and which messages and senders are this client's own: in a storage that outlives the
// page. The storage is the truth: the page may have been in the back/forward cache while another one sent what it holds.
import type { Options, Outgoing, SavedMessage } from "./types.ts";

/** An `Outgoing` with what only the client needs. */
export interface Item extends Outgoing {
  /** The client that sends it, as long as that lives. */
  owner: string;
  /** When it was sent without an answer so far, in milliseconds since 1970; 0: not at all. */
  sent: number;
  resend?: boolean | undefined;
  /** What failed attempts have cost so far. */
  tries: number;
}

/** What is stored. */
interface Stored {
  out: Item[];
  /** Users of tokens; a visitor gets a new one with every token. */
  mine: string[];
  /** The same users as the application calls them. */
  senders: string[];
  /** Ids of messages. */
  saved: string[];
}

export interface Outbox {
  readonly id: string;
  readonly storage: Options["storage"];
  readonly key: string;
  /** Called after each change. */
  readonly changed: () => void;
  stored: Stored;
  /** The same as it was last seen in the storage. */
  text?: string | null | undefined;
}

export const randomId = () => crypto.getRandomValues(new Uint32Array(4)).join("-");

/** Without what no server takes: halves of surrogate pairs, and NUL. */
export const repaired = (text: string) => String(text ?? "").replace(/[\ud800-\udfff]/gu, "\ufffd").replaceAll("\0", "");

const comparable = (text: unknown) => String(text).replace(/\s+/g, " ").trim();

export const senderId = ({ sender }: SavedMessage) => String(sender?.id ?? "");

/** Those of all living clients on this page, also of another copy of this module. */
const living = (): Set<Outbox> => ((globalThis as any)[Symbol.for("eclipse-chat")] ??= new Set());

const read = ({ storage, key }: Outbox) => {
  try {
    return storage?.getItem(key);
  } catch {}
};

/** Whether this client sends it: what it has written, and what a client has left that lives no more. */
export const owns = ({ id }: Outbox, { owner }: Item) => owner == id || ![...living()].some((other) => other.id == owner);

const parse = (text: string) => {
  const stored: Stored = { out: [], mine: [], senders: [], saved: [] };
  try {
    const kept = JSON.parse(text);
    for (const name in stored) stored[name as keyof Stored] = [...(kept[name] ?? [])];
  } catch {}
  stored.out = stored.out.filter((item) => item?.content).map((item: any) => ({ at: Date.now(), after: "", tries: 0, ...item, content: repaired(item.content) }));
  return stored;
};

/** Take what another page or client has stored. */
export const load = (outbox: Outbox) => {
  const text = read(outbox);
  if (text != null && text != outbox.text) outbox.stored = parse((outbox.text = text));
  const { stored } = outbox;
  for (const item of stored.out) if (item.status == "sending" && item.owner != outbox.id && owns(outbox, item)) item.status = "waiting";
  return stored;
};

/** Change what is stored. */
export const change = (outbox: Outbox, edit: (stored: Stored) => void) => {
  edit(load(outbox));
  try {
    outbox.storage?.setItem(outbox.key, JSON.stringify(outbox.stored));
  } catch {}
  outbox.text = read(outbox);
  outbox.changed();
};

export const openOutbox = (storage: Options["storage"], key: string, changed: () => void): Outbox => {
  const outbox: Outbox = { id: randomId(), storage, key, changed, stored: parse("{}") };
  living().add(outbox);
  return outbox;
};

/** Leave what is there to the other clients of this chat. */
export const closeOutbox = (outbox: Outbox) => living().delete(outbox);

export const find = (outbox: Outbox, clientMessageId: string) => load(outbox).out.find((item) => item.clientMessageId == clientMessageId);

/** Change one message, unless it is gone. */
export const update = (outbox: Outbox, { clientMessageId }: Item, changes: Partial<Item>) =>
  change(outbox, () => Object.assign(find(outbox, clientMessageId) ?? {}, changes));

export const remove = (stored: Stored, clientMessageId?: string) => {
  stored.out = stored.out.filter((item) => item.clientMessageId != clientMessageId);
};

export const remember = (stored: Stored, name: "mine" | "senders" | "saved", text: string) => {
  if (text && !stored[name].includes(text)) stored[name] = [...stored[name], text].slice(-99);
};

/** The message under way. */
export const underWay = ({ stored, id }: Outbox) => stored.out.find(({ status, owner }) => status == "sending" && owner == id);

/** Whether this is the user of a token, or whom the application calls so. */
export const isKnown = ({ stored: { mine, senders } }: Outbox, sender: string) => [...mine, ...senders].includes(sender);

/** Whether the message can be this item, saved. `userId`: the user of the token that is used now. */
export const matches = (outbox: Outbox, message: SavedMessage, { content, role }: Item, userId: string) =>
  comparable(message.content) == comparable(content) &&
  !outbox.stored.saved.includes(String(message.id)) &&
  // An application that was seen to call users by their tokens' ids calls this one so again.
  (isKnown(outbox, senderId(message)) || (!outbox.stored.senders.includes(userId) && String(message.role ?? role).toUpperCase() == role));
