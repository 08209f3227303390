import type { Message } from "./types.ts";

/** A message as the application answers it. */
export type SavedMessage = Omit<Message, "timestamp"> & { timestamp?: string; createdAt?: string };

/**
 * Load a chat's messages, oldest first, and try until it works. Answers undefined if there is none to be had (404, 403), if `isWanted` says
 * that nobody waits for it any more, or once `over` is aborted. `onTrouble` is called when it takes long.
 */
export async function loadHistory(
  url: URL,
  isWanted: () => boolean,
  over: AbortSignal,
  onTrouble: () => void,
): Promise<SavedMessage[] | undefined> {
  for (let wait = 1_000; isWanted(); wait = Math.min(wait * 2, 30_000)) {
    try {
      const answer = await fetch(url, { signal: AbortSignal.timeout(10_000), cache: "no-store" });
      if (answer.status == 404 || answer.status == 403) return [];
      const { messages } = await answer.json();
      return isWanted() ? [...messages] : undefined;
    } catch {
      if (!isWanted()) return;
      if (wait > 2_000) onTrouble();
      await new Promise<unknown>((done) => {
        const timer = setTimeout(done, wait * (0.5 + Math.random()));
        over.addEventListener("abort", () => done(clearTimeout(timer)));
      });
    }
  }
  return undefined;
}
