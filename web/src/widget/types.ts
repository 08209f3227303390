import type { Sender } from "../client/index.ts";

export type { EclipseChat, Failure, Message, Outgoing, Role, Sender, State } from "../client/index.ts";

/** What is shown in one place of the conversation: a message, or the notice that somebody joined. */
export interface Row {
  /** The message's id, or what names a notice or a message that has no id yet. */
  key: string;
  /** When it was saved, in milliseconds since 1970; Infinity for what waits. */
  at: number;
  /** Lower case. */
  role: string;
  content: string;
  sender?: Partial<Sender> | null;
  updatedAt?: string;
  /** Its content is not the one it was first sent with. */
  isEdited?: boolean;
  /** It was taken back: its content is not shown. */
  isDeleted?: boolean;
  /** This is the notice that the sender has joined, and not a message. */
  isJoin?: boolean;
  /** Of an own message that the application is not known to hold, or that is not yet back from it (`sent`). */
  status?: "waiting" | "sending" | "failed" | "sent";
  /** Why it failed. */
  code?: string;
}
