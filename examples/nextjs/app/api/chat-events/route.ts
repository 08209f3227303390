import { answer, failure } from "@/lib/chat-server";
import { publishToInbox } from "@/lib/publish";
import { isRecent, isSigned, take, type Report } from "@/lib/reports";

export const runtime = "nodejs";

function parse(body: Uint8Array): { events: Report[]; sentAt: string } | null {
  try {
    const batch = JSON.parse(new TextDecoder().decode(body));
    return Array.isArray(batch.events) && typeof batch.sentAt === "string" ? batch : null;
  } catch {
    return null;
  }
}

export async function POST(request: Request) {
  try {
    const body = new Uint8Array(await request.arrayBuffer()); // the signature is of these bytes, not of the same JSON written anew
    if (!isSigned(body, request.headers.get("X-Signature"))) return answer({ error: "Unauthorized" }, 401);
    const batch = parse(body);
    if (!batch) return answer({ error: "Not a batch of reports" }, 400);
    if (!isRecent(batch.sentAt)) return answer({ error: "Too old, or the clocks differ" }, 401);
    const changed = new Set<string>();
    for (const report of batch.events) if (await take(report)) changed.add(report.chatId); // one after the other: their order counts
    await Promise.all([...changed].map((chatId) => publishToInbox("chat_updated", { chatId })));
    return answer({ taken: batch.events.length });
  } catch (error) {
    return failure(error);
  }
}
