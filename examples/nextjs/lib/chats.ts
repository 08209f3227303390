import { createHash } from "node:crypto";
import { cookies } from "next/headers";
import { auth } from "@/auth";
import { prisma } from "@/lib/prisma";
import { INBOX } from "@/lib/publish"; // section 5

const STAFF = ["AGENT", "ADMIN"]; // the roles of those who answer, as your application calls them

/** Who is asking, as a member of this chat; null if they may not join it. Only chatId comes from the request's URL. */
export async function memberOf(chatId: string) {
  const isInbox = chatId === INBOX; // nobody's own chat: for staff alone
  const chat = isInbox ? { userId: null, visitor: null } : await prisma.chat.findUnique({ where: { id: chatId } });
  if (!chat) return null;
  const session = await auth();
  if (session) {
    const user = session.user;
    if (!user?.id) throw new Error("The session has no user.id: return it from the session callback");
    const isStaff = STAFF.includes(user.role ?? "");
    if (!isStaff && chat.userId !== user.id) return null;
    return { userId: user.id, isAuthenticated: true, roles: isStaff ? ["USER", "ASSISTANT", "AGENT"] : ["USER"] };
  }
  const cookie = (await cookies()).get("chat_visitor")?.value;
  const visitor = cookie && createHash("sha256").update(cookie).digest("hex");
  if (!visitor || chat.visitor !== visitor) return null;
  return { userId: `anon_${visitor.slice(0, 32)}`, isAuthenticated: false, roles: ["USER"] };
}
