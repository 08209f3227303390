import type { Message } from "./types.ts";

/** A message as the application answers it. */
export type SavedMessage = Omit<Message, "timestamp"> & { timestamp?: string; createdAt?: string };

/**
 * Load a chat's messages, oldest first, and try until it works or nobody waits for it any more: `over` is aborted. There are none where
 * the application has no history (404, 403). `onTrouble` is called when it takes long.
 */
export async function loadHistory(url: URL, over: AbortSignal, onTrouble: () => void): Promise<SavedMessage[]> {
  for (let wait = 1_000; !over.aborted; wait = Math.min(wait * 2, 30_000))
    try {
      const limit = AbortSignal.timeout(10_000);
      const answer = await fetch(url, { signal: AbortSignal.any?.([over, limit]) ?? limit, cache: "no-store" });
      if (answer.status == 404 || answer.status == 403) break;
      const { messages } = await answer.json();
      return [...messages];
    } catch {
      if (over.aborted) break;
      if (wait > 2_000) onTrouble();
      await new Promise<unknown>((done) => {
        const timer = setTimeout(done, wait * (0.5 + Math.random()));
        over.onabort = () => done(clearTimeout(timer));
      });
    }
  return [];
}
