import type { Conversation } from "./conversation.ts";
import type { Texts } from "./texts/en.ts";

/** What the view shows. */
export interface Scene {
  conversation: Conversation | undefined;
  texts: Texts;
  /** The page's language, for dates and times. */
  language: string | undefined;
  unread: number;
  /** The key of the last own message that the other side has read. */
  seen?: string | undefined;
}
