import { h, icon } from "./dom.ts";
import { linked } from "./links.ts";
import type { Scene } from "./scene.ts";
import type { Texts } from "./texts/en.ts";
import type { Row } from "./types.ts";
import { isolated, nameOf, reason } from "./words.ts";

const CIRCLE = "M21 12a9 9 0 1 1-18 0 9 9 0 0 1 18 0M12 7v";

/** Midnight before a row, as milliseconds since 1970; what waits is of today. */
export const dayOf = ({ at }: Row): number => new Date(Number.isFinite(at) ? at : Date.now()).setHours(0, 0, 0, 0);

export function dayName(day: number, { texts, language }: Scene): string {
  const today = new Date().setHours(0, 0, 0, 0);
  if (day == today) return texts.today;
  if (day < today && today - day <= 25 * 3_600_000) return texts.yesterday; // a day of 25 hours exists
  return new Date(day).toLocaleDateString(language, { dateStyle: "full" });
}

export const notice = (row: Row, { texts }: Scene): string => texts.joined.replace("{name}", () => isolated(nameOf(row, texts)));

/** Whether two rows, one after the other, are shown as one group. */
export function isSameGroup(a: Row | undefined, b: Row | undefined): boolean {
  if (!a || !b || a.isJoin || b.isJoin || a.role != b.role || dayOf(a) != dayOf(b)) return false;
  if (a.status || b.status) return true;
  return a.sender?.id == b.sender?.id && !(Math.abs(a.at - b.at) > 300_000);
}

/** What a message's element looks like depends on this alone: while it stays, the element stays. */
export const markOf = (row: Row, isFirst: boolean, isLast: boolean, isSaid: boolean, { conversation, seen }: Scene): string =>
  JSON.stringify([seen == row.key, isFirst, isLast, isSaid, conversation!.isOver, conversation!.isMine(row), row]);

/** The element of one message. `key` names it in its buttons. */
export function messageElement(row: Row, key: string, isFirst: boolean, isLast: boolean, isSaid: boolean, scene: Scene): HTMLElement {
  const { texts } = scene;
  const isMine = scene.conversation!.isMine(row);
  const name = nameOf(row, texts);
  const who = isMine || !isFirst ? hidden(`${isMine ? texts.you : name}: `) : h("span", { part: "name", class: "who", dir: "auto" }, name);
  const classes = [isMine ? "me" : "them", isFirst && "first", row.isDeleted && "gone"].filter(Boolean).join(" ");
  return h(
    "li",
    { class: classes, "data-id": row.status ? null : row.key },
    who,
    h("div", { part: `bubble ${isMine ? "mine" : "theirs"}` }, ...(row.isDeleted ? [texts.deleted] : linked(row.content))),
    ...(row.status == "failed" || isLast || row.isEdited || scene.seen == row.key ? [meta(row, key, isMine && isSaid, scene)] : []),
  );
}

/** The greeting, which nobody has written: it looks like the other side's first message, and is none. */
export const greeting = ({ empty, agent }: Texts): HTMLElement =>
  h("li", { part: "empty", class: "empty first" }, hidden(`${agent}: `), h("div", { part: "bubble theirs", class: "hello" }, empty));

/** What is below a message: when it was saved, how far it has come, or what to do about it. */
function meta(row: Row, key: string, isSaid: boolean, { texts, language, conversation, seen }: Scene): HTMLElement {
  const { status, code } = row;
  const { isOver } = conversation!;
  const isSent = isSaid || status == "sent";
  if (status == "failed" || (isOver && status && !isSent)) {
    // What is too long stays so.
    const actions = isOver ? [] : /too_long/.test(code ?? "") ? (["edit", "discard"] as const) : (["retry", "edit", "discard"] as const);
    const buttons = actions.map((does) => h("button", { part: does, "data-id": key, "data-does": does }, texts[does]));
    return h("span", { part: "meta", class: "meta bad" }, icon(CIRCLE + "6M12 17h.01"), isOver ? texts.unsent : reason(code, texts), ...buttons);
  }
  const line = h("span", { part: "meta" }, status ? "" : new Date(row.at).toLocaleTimeString(language, { timeStyle: "short" }));
  if (row.isEdited && texts.edited) line.append(" · ", texts.edited);
  if (status || isSaid) line.append(icon(isSent ? "M4 13l5 5L20 7" : CIRCLE + "5l3 2"), seen == row.key && texts.seen ? texts.seen : hidden(" · " + (isSent ? texts.sent : texts.sending)));
  return line;
}

/** What only screen readers say. */
const hidden = (text: string): HTMLElement => h("span", { class: "sr" }, text);
