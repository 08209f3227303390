// The application's database, in memory, with the calls that the documented code makes. Every chat and user exists
// whose id doesn't begin with "missing". The chat "c1" is the user customer's, the chat "c2" the visitor's.
import { createHash } from "node:crypto";

type User = { id: string; name: string | null; email: string | null; image: string | null };
type Draft = { chatId: string; senderId: string; content: string; role: string; key: string | null };
type Saved = Draft & { id: string; createdAt: Date };
type ById = { where: { id: string } };
type Presence = { customerHere?: boolean; customerLeftAt?: Date; customerRead?: string };

const VISITOR = createHash("sha256").update("the-visitors-cookie").digest("hex");
const visitors = new Map<string, User>();
const saved: Saved[] = [];

const person = (id: string): User => ({ id, name: `Name of ${id}`, email: `${id}@example.org`, image: null });
const withSender = (message: Saved) => ({ ...message, sender: visitors.get(message.senderId) ?? person(message.senderId) });
const failing = (id: string) => {
  if (id === "database-down") throw Object.assign(new Error("Can't reach database server"), { code: "P1001" });
  if (id === "broken") throw new Error("a detail that is for the log alone");
};

/** What reports have said, by chat; and how many are known. */
export const reported: Record<string, Presence> = {};
let reports = new Set<string>();

const report = {
  async createMany({ data }: { data: { id: string }[]; skipDuplicates: true }) {
    const before = reports.size;
    for (const { id } of data) reports.add(id);
    return { count: reports.size - before };
  },
};

const chat = {
  async updateMany({ where, data }: ById & { data: Presence }) {
    failing(where.id);
    if (!where.id.startsWith("missing")) Object.assign((reported[where.id] ??= {}), data);
  },
};

export const prisma = {
  report,
  async $transaction<T>(work: (tx: { chat: typeof chat; report: typeof report }) => Promise<T>) {
    const before = new Set(reports);
    try {
      return await work({ chat, report });
    } catch (error) {
      reports = before;
      throw error;
    }
  },
  chat: {
    ...chat,
    async findUnique({ where }: ById) {
      failing(where.id);
      const userId = where.id === "c1" ? "customer" : null;
      const visitor = where.id === "c2" ? VISITOR : null;
      return where.id.startsWith("missing") ? null : { id: where.id, userId, visitor };
    },
  },
  user: {
    async findUnique({ where }: ById & { select?: object }) {
      return where.id.startsWith("missing") ? null : person(where.id);
    },
    async upsert({ where, create }: { where: { email: string }; update: object; create: { email: string } }) {
      const found = [...visitors.values()].find(({ email }) => email === where.email);
      const user = found ?? { id: where.email.split("@")[0], name: null, image: null, email: create.email };
      visitors.set(user.id, user);
      return user;
    },
  },
  message: {
    async create({ data }: { data: Draft; include: object }) {
      const message = { ...data, id: `m${saved.length + 1}`, createdAt: new Date() };
      saved.push(message);
      return withSender(message);
    },
    async upsert({ where, create, include }: {
      where: { chatId_key: { chatId: string; key: string } }; update: object; create: Draft; include: object;
    }) {
      const { chatId, key } = where.chatId_key;
      const found = saved.find((message) => message.chatId === chatId && message.key === key);
      return found ? withSender(found) : this.create({ data: create, include });
    },
    async findMany({ where, take }: { where: { chatId: string }; orderBy: object; take: number; include: object }) {
      return saved.filter(({ chatId }) => chatId === where.chatId).reverse().slice(0, take).map(withSender);
    },
  },
};
