// How the declarations are meant to be used; checked by tsc --strict.
import { connect, type Message } from "../../eclipse_ws/static/eclipse-chat.js";
const chat = connect({ tokenUrl: "/t", chatId: "1" });
chat.on("message", ({ data }) => { const m: Message = data; m.content.trim(); });
chat.addEventListener("state", (e) => e.detail.state === "open");
const id: string = chat.send("x");
chat.retry(id); chat.joined({ agentName: "x" });
// @ts-expect-error neither token nor tokenUrl
connect({});
connect({ token: async ({ signal }) => ({ token: String(signal.aborted) }), url: "ws://x" });
// @ts-expect-error no such event
chat.on("nope", () => {});
