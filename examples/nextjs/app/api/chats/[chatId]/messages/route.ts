import { answer, failure } from "@/lib/chat-server";
import { memberOf } from "@/lib/chats";
import { prisma } from "@/lib/prisma";

export const runtime = "nodejs";
export const dynamic = "force-dynamic";

export async function GET(request: Request, { params }: { params: Promise<{ chatId: string }> }) {
  try {
    const { chatId } = await params;
    if (!(await memberOf(chatId))) return answer({ error: "Not your chat" }, 403);
    const newest = await prisma.message.findMany({
      where: { chatId },
      orderBy: [{ createdAt: "desc" }, { id: "desc" }],
      take: 200,
      include: { sender: true },
    });
    const messages = newest.reverse().map(({ id, content, role, createdAt, sender }) => ({
      id,
      content,
      role,
      createdAt,
      sender: { id: sender.id, name: sender.name, email: sender.email, avatar: sender.image },
    }));
    return answer({ messages });
  } catch (error) {
    return failure(error);
  }
}
