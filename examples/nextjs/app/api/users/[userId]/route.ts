import { answer, failure, isChatServer } from "@/lib/chat-server";
import { prisma } from "@/lib/prisma";

export const runtime = "nodejs";
export const dynamic = "force-dynamic";

export async function GET(request: Request, { params }: { params: Promise<{ userId: string }> }) {
  try {
    if (!isChatServer(request)) return answer({ error: "Unauthorized" }, 401);
    const { userId } = await params;
    const select = { id: true, name: true, email: true, image: true };
    const user = await prisma.user.findUnique({ where: { id: userId }, select });
    return user ? answer(user) : answer({ error: "User not found" }, 404);
  } catch (error) {
    return failure(error);
  }
}
