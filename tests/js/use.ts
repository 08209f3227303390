// How the declarations are meant to be used; checked by tsc --strict.
import { connect, type Message } from "../../eclipse_ws/static/eclipse-chat.js";
const chat = connect({ tokenUrl: "/t", chatId: "1" });
chat.on("message", ({ data }) => { const m: Message = data; m.content.trim(); });
chat.addEventListener("state", (e) => e.detail.state === "open");
const id: string = chat.send("x");
const other = chat.join("2", { cursor: "e.5", token: async ({ chatId }) => ({ token: chatId!.trim() }) });
other.on("connected", ({ chatId, recovered }) => chatId?.trim().concat(String(recovered)));
other.send("x"); other.close();
// @ts-expect-error a joined chat shares its connection's address
chat.join("2", { url: "ws://x" });
chat.retry(id); chat.joined({ agentName: "x" });
chat.on("message_deleted", ({ data }) => data.id.trim());
chat.on("outbox", (pending) => pending.map(({ content, at, after }) => content + at.toFixed() + after.trim()));
const mine: boolean = chat.isMine({ id: 7, sender: null });
const edited: string = chat.discard(id);
chat.read("m1"); chat.read(7);
connect({ tokenUrl: "/t", events: ["read", "presence"] });
// @ts-expect-error no such event can be asked for
connect({ tokenUrl: "/t", events: ["typing"] });
const there: string[] = chat.online.map(({ userId, role, since }) => userId + role + (since ?? ""));
chat.on("presence", ({ data }) => data.users?.length === chat.onlineCount);
chat.on("read", ({ data }) => chat.positions.some(({ messageId }) => messageId === data.messageId));
// @ts-expect-error neither token nor tokenUrl
connect({});
connect({ token: async ({ signal }) => ({ token: String(signal.aborted) }), url: "ws://x" });
// @ts-expect-error no such event
chat.on("nope", () => {});
