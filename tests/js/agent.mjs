// One agent with several chats on one socket: `node --experimental-websocket agent.mjs <url> <tokens by chat>`. Each event of a chat is one line of
// output; each line of input is a chat to send a message to.
import { createInterface } from "node:readline";
import { connect } from "../../eclipse_ws/static/eclipse-chat.js";

const [url, tokens] = [process.argv[2], JSON.parse(process.argv[3])];
let sockets = 0;
class Counted extends WebSocket {
  constructor(...given) {
    super(...given);
    sockets++;
  }
}
const tell = (...told) => console.log(JSON.stringify([...told, sockets]));
const token = ({ chatId = "" }) => ({ token: tokens[chatId], userId: "agent" });
const base = connect({ url, token, WebSocket: Counted, storage: null, role: "AGENT", events: ["presence", "read"] });
const chats = { "": base };
for (const chatId of Object.keys(tokens)) if (chatId) chats[chatId] = base.join(chatId);
for (const [name, chat] of Object.entries(chats)) {
  chat.on("state", ({ state, code }) => /open|closed/.test(state) && tell(name, state, code ?? 0));
  chat.on("reload", () => tell(name, "reload"));
  chat.on("sent", () => tell(name, "sent"));
  chat.on("message", ({ data }) => {
    tell(name, "message", data.content, chat.isMine(data));
    chat.read(data.id);
  });
  chat.on("presence", () => tell(name, "online", ...chat.online.map(({ userId, role }) => `${role} ${userId}`).sort()));
  chat.on("read", () => tell(name, "positions", ...chat.positions.map(({ userId, messageId }) => `${userId} ${messageId}`).sort()));
  chat.on("error", ({ code, error }) => tell(name, "error", code ?? error));
}
createInterface({ input: process.stdin }).on("line", (name) => (name ? chats[name].send(`hello ${name}`) : base.close()));
