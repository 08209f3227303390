import { h } from "./dom.ts";
import { linked } from "./links.ts";
import type { Row } from "./types.ts";
import type { Texts } from "./texts/en.ts";

/** What a row's element depends on besides the row. */
export interface Look {
  texts: Texts;
  /** The page's language, for dates and times. */
  language: string | undefined;
  /** Whether this page's person wrote it. */
  isMine(row: Row): boolean;
  /** Whether the chat is over: what was not sent never will be. */
  isOver: boolean;
}

/** Who wrote it, as people are shown. */
export const nameOf = (row: Row, texts: Texts): string =>
  row.sender?.name || row.sender?.email || (texts as Record<string, string>)[row.role] || row.role;

/** Why a message was not sent. */
export const reason = (code: string | undefined, texts: Texts): string =>
  /too_long/.test(code ?? "") ? texts.tooLong : code == "outcome_unknown" ? texts.unknown : texts.failed;

/** Midnight before a row, as milliseconds since 1970; what waits is of today. */
export const dayOf = ({ at }: Row): number => new Date(Number.isFinite(at) ? at : Date.now()).setHours(0, 0, 0, 0);

export function dayName(day: number, { texts, language }: Look): string {
  const today = new Date().setHours(0, 0, 0, 0);
  if (day == today) return texts.today;
  if (day < today && today - day <= 25 * 3_600_000) return texts.yesterday; // a day of 25 hours exists
  return new Date(day).toLocaleDateString(language, { dateStyle: "full" });
}

export const notice = (row: Row, { texts }: Look): string => texts.joined.replace("{name}", () => `\u2068${row.joined}\u2069`);

/** Whether two rows, one after the other, are shown as one group. */
export function isSameGroup(a: Row | undefined, b: Row | undefined): boolean {
  if (!a || !b || a.joined || b.joined || a.role != b.role || dayOf(a) != dayOf(b)) return false;
  if (a.status || b.status) return true;
  return a.sender?.id == b.sender?.id && !(Math.abs(a.at - b.at) > 300_000);
}

/** What a message's element looks like depends on this alone: while it stays, the element stays. */
export const markOf = (row: Row, isFirst: boolean, isLast: boolean, isSaid: boolean, look: Look): string =>
  [isFirst, isLast, isSaid, look.isOver, look.isMine(row), row.status, row.code, row.content, row.updatedAt, nameOf(row, look.texts)].join("\0");

/** The element of one message. `key` names it in its buttons. */
export function messageElement(row: Row, key: string, isFirst: boolean, isLast: boolean, isSaid: boolean, look: Look): HTMLElement {
  const { texts } = look;
  const isMine = look.isMine(row);
  const isUnsent = !!row.status && row.status != "sent";
  const classes = [isMine ? "me" : "them", isFirst && "first", isUnsent && "wait"].filter(Boolean).join(" ");
  const name = nameOf(row, texts);
  const who = isMine || !isFirst ? h("span", { class: "sr" }, `${isMine ? texts.you : name}: `) : h("span", { part: "name", class: "who", dir: "auto" }, name);
  return h(
    "li",
    { class: classes, "data-id": row.status ? null : row.key },
    who,
    h("div", { part: `bubble ${isMine ? "mine" : "theirs"}` }, ...linked(row.content)),
    ...(row.status == "failed" || isLast ? [meta(row, key, isMine && isSaid, look)] : []),
  );
}

function meta(row: Row, key: string, isSaid: boolean, look: Look): HTMLElement {
  const { texts, isOver, language } = look;
  const button = (does: string, text: string) => h("button", { part: does, "data-id": key, "data-does": does }, text);
  const line = (...children: (Node | string)[]) => h("span", { class: row.status == "failed" ? "meta bad" : "meta", part: "meta" }, ...children);
  if (isOver && row.status && row.status != "sent") return line(texts.unsent);
  if (row.status == "failed") {
    const why = reason(row.code, texts);
    return line(/too_long/.test(row.code ?? "") ? h("span", {}, why) : button("retry", why), button("discard", texts.discard));
  }
  if (row.status) return line(row.status == "sent" ? texts.sent : texts.sending);
  const time = new Date(row.at).toLocaleTimeString(language, { timeStyle: "short" });
  return line(isSaid ? `${time} · ${texts.sent}` : time);
}
