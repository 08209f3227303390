import { createHash } from "node:crypto";
import { cookies } from "next/headers";
import { prisma } from "@/lib/prisma";

export const VISITOR_COOKIE = "chat_visitor";

/** The hash of a visitor's cookie, as chats store it. */
export const hashed = (cookie: string) => createHash("sha256").update(cookie).digest("hex");

/** The chat of the visitor who sent this request; null if they have not opened one. */
export async function visitorsChat() {
  const cookie = (await cookies()).get(VISITOR_COOKIE)?.value;
  return cookie ? prisma.chat.findFirst({ where: { visitor: hashed(cookie) } }) : null;
}
