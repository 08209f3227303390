import type { Texts } from "./texts/en.ts";
import type { Row } from "./types.ts";

/** Who wrote it, as people are shown. */
export const nameOf = (row: Row, texts: Texts): string =>
  [row.sender?.name, row.sender?.email].find(isVisible) || (row.role == "user" ? texts.user : texts.agent);

/** Whether a name has anything to see. */
const isVisible = (name: unknown): boolean => /[\p{L}\p{N}\p{P}\p{S}]/u.test(String(name ?? ""));

/** A name beside other text: its direction ends with it. */
export const isolated = (name: string): string => `\u2068${name}\u2069`;

/** Why a message was not sent. */
export const reason = (code: string | undefined, texts: Texts): string =>
  /too_long/.test(code ?? "") ? texts.tooLong : code == "outcome_unknown" ? texts.unknown : texts.failed;
