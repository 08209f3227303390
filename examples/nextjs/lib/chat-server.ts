import { createHash, timingSafeEqual } from "node:crypto";

/** JSON that no cache keeps. */
export function answer(body: object, status = 200) {
  return Response.json(body, { status, headers: { "Cache-Control": "no-store" } });
}

/** Whether the caller is the chat server. The secrets are compared in constant time. */
export function isChatServer(request: Request) {
  const secret = process.env.INTERNAL_API_SECRET?.trim(); // HTTP trims the header, too
  if (!secret) throw new Error("INTERNAL_API_SECRET is not set");
  const hash = (text: string) => createHash("sha256").update(text).digest();
  return timingSafeEqual(hash(request.headers.get("X-Internal-Secret") ?? ""), hash(secret));
}

/** The response to an error. The details go only to the log. */
export function failure(error: unknown) {
  console.error(error);
  const { code, errorCode } = error as { code?: string; errorCode?: string };
  if (code === "P2002") return answer({ error: "This message is being saved" }, 409);
  if (/^P1|^P2024/.test(code ?? errorCode ?? "")) return answer({ error: "The database is unavailable" }, 503);
  return answer({ error: "Internal error" }, 500);
}
