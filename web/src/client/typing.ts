// The times of typing and reading, in milliseconds: what is sent here and what is shown of it there have to fit.

/** Typing is told again at most so often. */
export const TYPING_REPEAT_MS = 2_500;
/** Who presses no key for so long has stopped. */
export const TYPING_PAUSE_MS = 4_000;
/** Who is told to be typing, and not told again for so long, has stopped: a "stopped" can be lost. */
export const TYPING_EXPIRY_MS = 6_000;
/** What was read is told again at most so often. */
export const READ_REPEAT_MS = 1_000;
