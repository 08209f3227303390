"use server";

import { randomBytes } from "node:crypto";
import { cookies } from "next/headers";
import { redirect } from "next/navigation";
import { AGENT_COOKIE } from "@/auth";
import { prisma } from "@/lib/prisma";
import { publishToInbox } from "@/lib/publish";
import { hashed, VISITOR_COOKIE, visitorsChat } from "@/lib/visitor";

const OPTIONS = { httpOnly: true, secure: process.env.NODE_ENV === "production", sameSite: "lax" } as const;

/** Open the visitor's chat. Their cookie is the proof that it is theirs, so it is random, and only its hash is saved. */
export async function beCustomer() {
  const jar = await cookies();
  jar.delete(AGENT_COOKIE);
  if (!(await visitorsChat())) {
    const cookie = randomBytes(32).toString("hex");
    jar.set(VISITOR_COOKIE, cookie, OPTIONS);
    const { id } = await prisma.chat.create({ data: { visitor: hashed(cookie) } });
    await publishToInbox("chat_opened", { chatId: id });
  }
  redirect("/customer");
}

/** Make anybody the agent. Your own application signs people in instead. */
export async function beAgent() {
  (await cookies()).set(AGENT_COOKIE, "yes", OPTIONS);
  redirect("/agent");
}
