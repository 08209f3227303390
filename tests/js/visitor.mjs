// One visitor: `node --experimental-websocket visitor.mjs <token url> <text>...` sends the texts and prints the outcomes.
import { connect } from "../../eclipse_ws/static/eclipse-chat.js";

const [tokenUrl, ...texts] = process.argv.slice(2);
const chat = connect({ tokenUrl, chatId: "c1", storage: null });
const sent = [];
const heard = [];
chat.on("sent", ({ id }) => sent.push(id));
// As a page draws it: its author must be known as soon as it arrives.
chat.on("message", ({ data }) => heard.push([data.id, data.content, chat.isMine(data)]));
for (const text of texts) chat.send(text);
const done = () => {
  if (sent.length < texts.length || heard.length < texts.length) return;
  console.log(JSON.stringify({ sent, heard, pending: chat.pending.length }));
  process.exit();
};
chat.on("sent", () => setImmediate(done));
chat.on("message", () => setImmediate(done));
setTimeout(() => (console.log(JSON.stringify({ sent, heard, pending: chat.pending.length, state: chat.state })), process.exit(1)), 8_000);
