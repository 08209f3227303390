import { SignJWT } from "jose";
import { answer, failure } from "@/lib/chat-server";
import { memberOf } from "@/lib/chats";

export const runtime = "nodejs";
export const dynamic = "force-dynamic";

export async function GET(request: Request) {
  try {
    const key = new TextEncoder().encode(process.env.JWT_SECRET);
    if (key.length < 32) throw new Error("JWT_SECRET is missing or has less than 32 bytes");
    const wsUrl = process.env.NEXT_PUBLIC_WS_URL;
    if (!wsUrl) throw new Error("NEXT_PUBLIC_WS_URL is not set");
    const chatId = new URL(request.url).searchParams.get("chatId");
    if (!chatId) return answer({ error: "chatId is missing" }, 400);
    const member = await memberOf(chatId);
    if (!member) return answer({ error: "Not your chat" }, 403);
    const token = await new SignJWT({ ...member, chatId })
      .setProtectedHeader({ alg: "HS256" })
      .setIssuedAt()
      .setExpirationTime("2h")
      .sign(key);
    return answer({ token, wsUrl, userId: member.userId, chatId });
  } catch (error) {
    return failure(error);
  }
}
