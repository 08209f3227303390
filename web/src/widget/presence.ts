// The other side, as far as the server tells: who is there, and what they have read.
import type { Conversation } from "./conversation.ts";
import type { Scene } from "./scene.ts";
import { isolated, nameOf } from "./words.ts";

const MOST_NAMES = 3;
/** For so many milliseconds what is known stays: a reconnect, after which the server has to ask others. */
export const KEPT_MS = 5_000;

/** The key of the last own message that somebody on the other side has read. */
export function seenIn(conversation: Conversation): string | undefined {
  const { chat, timeline } = conversation;
  let end = 0;
  for (const { role, messageId } of chat.positions) {
    const row = timeline.get(messageId);
    if (row && conversation.isOther(role)) end = Math.max(end, timeline.order.indexOf(row) + 1);
  }
  return timeline.order.slice(0, end).findLast((row) => !row.isJoin && !row.isDeleted && conversation.isMine(row))?.key;
}

/** Follows who is there in one conversation after the other. */
export class Presence {
  #conversation: Conversation | undefined;
  /** Who is on the other side, or was when the last of them went. */
  #people: { userId: string; role: string }[] = [];
  isHere = false;
  /** Since when the server has told nothing; 0: it tells. */
  lostAt = 0;

  /** What to say about them; `""`: nothing. */
  text({ conversation, texts, language }: Scene): string {
    if (conversation != this.#conversation) this.#people = [];
    this.#conversation = conversation;
    if (!conversation) return "";
    const { chat, timeline } = conversation;
    // This person is there, too: where nobody is, the server doesn't tell.
    if (chat.onlineCount) {
      const people = chat.online.filter(({ role }) => conversation.isOther(role));
      this.isHere = people.length > 0;
      if (this.isHere) this.#people = people;
      this.lostAt = 0;
    } else {
      this.lostAt ||= Date.now();
      if (conversation.isOver || Date.now() - this.lostAt >= KEPT_MS) return "";
    }
    const names = this.#people.slice(0, this.isHere ? MOST_NAMES : 1).map(({ userId, role }) => {
      const row = timeline.order.findLast(({ sender }) => sender?.id == userId);
      return isolated(row ? nameOf(row, texts) : role == "user" ? texts.user : texts.agent);
    });
    if (!names.length) return "";
    const text = this.isHere ? (names.length > 1 ? texts.hereTogether : texts.here) : texts.away;
    return text.replace("{name}", () => new Intl.ListFormat(language).format(new Set(names)));
  }
}
