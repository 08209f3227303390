import { answer, failure, isChatServer } from "@/lib/chat-server";
import { prisma } from "@/lib/prisma";

export const runtime = "nodejs";

type Context = { params: Promise<{ chatId: string }> }; // Next 14: { params: { chatId: string } }
const ROLES = ["USER", "ASSISTANT", "AGENT"];

export async function POST(request: Request, { params }: Context) {
  try {
    if (!isChatServer(request)) return answer({ error: "Unauthorized" }, 401);
    const { chatId } = await params;
    const { content, role, userId } = (await request.json().catch(() => null)) ?? {};
    if (typeof content !== "string" || !content.trim() || content.includes("\0"))
      return answer({ error: "content is missing, or is not text" }, 400);
    if (!ROLES.includes(role)) return answer({ error: "role is unknown" }, 400);
    if (typeof userId !== "string" || !userId) return answer({ error: "userId is missing" }, 400);
    if (!(await prisma.chat.findUnique({ where: { id: chatId } }))) return answer({ error: "Chat not found" }, 404);

    const email = `${userId}@anonymous.temp`; // a visitor writes as a temporary user
    const user = userId.startsWith("anon_")
      ? await prisma.user.upsert({ where: { email }, update: {}, create: { email } })
      : await prisma.user.findUnique({ where: { id: userId } });
    if (!user) return answer({ error: "User not found" }, 400);

    const key = request.headers.get("Idempotency-Key") || null;
    const data = { chatId, senderId: user.id, content, role, key };
    const include = { sender: true };
    const saved = key
      ? await prisma.message.upsert({ where: { chatId_key: { chatId, key } }, update: {}, create: data, include })
      : await prisma.message.create({ data, include });
    const { id, createdAt, sender } = saved;
    return answer({
      success: true,
      message: {
        id,
        content: saved.content,
        role: saved.role,
        createdAt,
        sender: { id: sender.id, name: sender.name, email: sender.email, avatar: sender.image },
      },
    });
  } catch (error) {
    return failure(error);
  }
}
