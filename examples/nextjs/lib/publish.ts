export const INBOX = "inbox:support";

/** Publish an event to a chat. Never import this into code for browsers: it uses the secret. */
async function send(chatId: string, type: string, data: { id: string; [field: string]: unknown }) {
  const answer = await fetch(`${process.env.CHAT_SERVER_URL}/api/chats/${encodeURIComponent(chatId)}/events`, {
    method: "POST",
    headers: {
      "Content-Type": "application/json",
      "X-Internal-Secret": process.env.INTERNAL_API_SECRET!,
      "Idempotency-Key": data.id,
    },
    body: JSON.stringify({ type, data, timestamp: new Date().toISOString() }),
    signal: AbortSignal.timeout(5000),
  });
  if (!answer.ok) throw new Error(`The chat server answered ${answer.status}`);
}

/** Publish a message that the application itself has written. */
export async function publish(chatId: string, message: { id: string; content: string; createdAt: Date; sender: object }) {
  const { id, content, createdAt, sender } = message;
  await send(chatId, "message", { id, content, role: "assistant", timestamp: createdAt, sender });
}

/** Tell the agents what happened to a chat. Call it when that is saved: a failure to publish is logged, and nothing else. */
export async function publishToInbox(
  type: "chat_opened" | "chat_updated" | "chat_assigned" | "chat_closed",
  data: { chatId: string; [field: string]: unknown },
) {
  const id = crypto.randomUUID();
  await send(INBOX, type, { ...data, id }).catch(() => send(INBOX, type, { ...data, id })).catch(console.error);
}
