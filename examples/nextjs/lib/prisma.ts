// Instead of a database: arrays in memory, with the Prisma calls that this application makes. They are empty again after a
// restart. In your own application this file exports the Prisma client, and the routes stay as they are.

type User = { id: string; name: string | null; email: string | null; image: string | null };
type Presence = { customerHere?: boolean; customerLeftAt?: Date; customerRead?: string };
type Chat = { id: string; userId: string | null; visitor: string | null } & Presence;
type Report = { id: string };
type Draft = { chatId: string; senderId: string; content: string; role: string; key: string | null };
type Message = Draft & { id: string; createdAt: Date; sender: User };

const AGENT: User = { id: "agent", name: "Ada", email: null, image: null };
const LIMIT = 1000; // rows of a kind: the oldest one makes room

// Next loads this module more than once: for pages, for routes, and again after a change.
type Tables = { chats: Chat[]; users: User[]; messages: Message[]; reports: Report[] };
const shared = globalThis as { tables?: Tables };
const { chats, users, messages, reports } = (shared.tables ??= { chats: [], users: [], messages: [], reports: [] });

function insert<Row>(rows: Row[], row: Row) {
  if (rows.push(row) > LIMIT) rows.shift();
  return row;
}

const findUser = (id: string) => [AGENT, ...users].find((user) => user.id === id) ?? null;

const report = {
  async createMany({ data }: { data: Report[]; skipDuplicates: true }) {
    const fresh = data.filter(({ id }) => !reports.some((known) => known.id === id));
    for (const row of fresh) insert(reports, row);
    return { count: fresh.length };
  },
};

const chat = {
  async updateMany({ where, data }: { where: { id: string }; data: Presence }) {
    for (const row of chats.filter(({ id }) => id === where.id)) Object.assign(row, data);
  },
};

export const prisma = {
  report,
  // Nothing here fails, so nothing has to be undone.
  $transaction: <T>(work: (tx: { chat: typeof chat; report: typeof report }) => Promise<T>) => work({ chat, report }),
  chat: {
    ...chat,
    async findUnique({ where }: { where: { id: string } }) {
      return chats.find(({ id }) => id === where.id) ?? null;
    },
    async findFirst({ where }: { where: { visitor: string } }) {
      return chats.find(({ visitor }) => visitor === where.visitor) ?? null;
    },
    async findMany() {
      return [...chats];
    },
    async create({ data }: { data: { visitor: string } }) {
      return insert(chats, { id: crypto.randomUUID(), userId: null, ...data });
    },
  },
  user: {
    async findUnique({ where }: { where: { id: string }; select?: object }) {
      return findUser(where.id);
    },
    async upsert({ where, create }: { where: { email: string }; update: object; create: { email: string } }) {
      const found = users.find(({ email }) => email === where.email);
      return found ?? insert(users, { id: crypto.randomUUID(), name: "Customer", image: null, ...create });
    },
  },
  message: {
    async create({ data }: { data: Draft; include: object }) {
      const sender = findUser(data.senderId)!;
      return insert(messages, { ...data, id: crypto.randomUUID(), createdAt: new Date(), sender });
    },
    async upsert(how: {
      where: { chatId_key: { chatId: string; key: string } };
      update: object;
      create: Draft;
      include: object;
    }) {
      const { chatId, key } = how.where.chatId_key;
      const found = messages.find((message) => message.chatId === chatId && message.key === key);
      return found ?? this.create({ data: how.create, include: how.include });
    },
    async findMany({ where, take }: { where: { chatId: string }; orderBy: object; take: number; include: object }) {
      return messages.filter(({ chatId }) => chatId === where.chatId).reverse().slice(0, take);
    },
  },
};
