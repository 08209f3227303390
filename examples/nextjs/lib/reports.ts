import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import { prisma } from "@/lib/prisma";

export type Report = { id: string; type: string; chatId: string; userId?: string; role?: string; messageId?: string; at: string };

const MAX_AGE = 300_000; // milliseconds between the clocks of the two

/** Whether the chat server has sent these bytes. Compared in constant time. */
export function isSigned(body: Uint8Array, signature: string | null) {
  const secret = process.env.INTERNAL_API_SECRET?.trim();
  if (!secret) throw new Error("INTERNAL_API_SECRET is not set");
  const right = `sha256=${createHmac("sha256", secret).update(body).digest("hex")}`;
  const hash = (text: string) => createHash("sha256").update(text).digest();
  return timingSafeEqual(hash(signature ?? ""), hash(right));
}

/** Whether a batch has just been sent: an older one may be a copy that somebody sends again. */
export const isRecent = (sentAt: string) => Math.abs(Date.now() - Date.parse(sentAt)) < MAX_AGE;

/** Saves what a report says, once. Answers whether that is news. */
export function take({ id, type, chatId, role, messageId, at }: Report) {
  return prisma.$transaction(async (tx) => {
    const { count } = await tx.report.createMany({ data: [{ id }], skipDuplicates: true });
    if (!count || role !== "user") return false; // it has come before, or is about an agent
    const data =
      type === "user_joined"
        ? { customerHere: true }
        : type === "user_left"
          ? { customerHere: false, customerLeftAt: new Date(at) }
          : type === "read"
            ? { customerRead: messageId }
            : null;
    if (data) await tx.chat.updateMany({ where: { id: chatId }, data });
    return data !== null;
  });
}
