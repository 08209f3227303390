import type { Texts } from "./texts/en.ts";
import type { Row } from "./types.ts";

/** Who wrote it, as people are shown. */
export const nameOf = (row: Row, texts: Texts): string =>
  row.sender?.name || row.sender?.email || (texts as Record<string, string>)[row.role] || row.role;

/** Why a message was not sent. */
export const reason = (code: string | undefined, texts: Texts): string =>
  /too_long/.test(code ?? "") ? texts.tooLong : code == "outcome_unknown" ? texts.unknown : texts.failed;
