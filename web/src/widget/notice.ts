import type { Conversation } from "./conversation.ts";
import type { Texts } from "./texts/en.ts";

/** The line above the messages: what a person should know while it is true, the most urgent alone. `excess`: characters too many. */
export function noticeOf(conversation: Conversation | undefined, texts: Texts, excess: number): string {
  if (excess && !conversation?.isOver) return texts.tooLongBy.replace("{n}", excess.toLocaleString());
  if (!conversation) return texts.unavailable;
  return (conversation.isFull && texts.full) || linkNotice(conversation, texts) || (conversation.isIncomplete && texts.historyFailed) || "";
}

function linkNotice({ chat: { state }, problem, isLate, wasConnected }: Conversation, texts: Texts): string {
  if (state == "closed") return texts.ended;
  if (!navigator.onLine) return texts.offline;
  if (state == "open") return "";
  if (problem && !problem.retryable) return problem.code == "bad_url" ? texts.unavailable : texts.refused;
  if (!isLate) return "";
  return wasConnected ? texts.offline : problem ? texts.unavailable : texts.connecting;
}
