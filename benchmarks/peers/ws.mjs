// A chat server as one writes it with Node's `ws`: a token at the upgrade, the chats in a Map, the payload made once.
//
// PORT, JWT_SECRET. With NEXT_API_URL it does the message path: save over HTTP with `fetch`, then tell the chat.
// With REDIS_URL it tells the chat through Redis, so that several nodes share it.
import { once } from "node:events";
import http from "node:http";
import jwt from "jsonwebtoken";
import { WebSocketServer } from "ws";

const { PORT, JWT_SECRET, NEXT_API_URL, INTERNAL_API_SECRET, REDIS_URL } = process.env;
const chats = new Map(); // chat id -> Set of sockets
const server = http.createServer((request, response) => response.end("ok"));
const sockets = new WebSocketServer({ server, perMessageDeflate: false });

let publish = deliver;
let heard = null;
if (REDIS_URL) {
  const { default: Redis } = await import("ioredis");
  const out = new Redis(REDIS_URL);
  heard = new Redis(REDIS_URL);
  // A subscription that comes before its connection is ready would crash the client's own first command.
  await Promise.all([once(out, "ready"), once(heard, "ready")]);
  heard.on("message", (channel, payload) => deliver(channel.slice("chat:".length), payload));
  publish = (chatId, payload) => out.publish(`chat:${chatId}`, payload);
}

function deliver(chatId, payload, except) {
  for (const socket of chats.get(chatId) ?? []) if (socket !== except) socket.send(payload);
}

async function join(chatId, socket) {
  let members = chats.get(chatId);
  if (!members) {
    chats.set(chatId, (members = new Set()));
    members.heard = heard?.subscribe(`chat:${chatId}`);
  }
  members.add(socket);
  await members.heard;
}

function leave(chatId, socket) {
  const members = chats.get(chatId);
  members?.delete(socket);
  if (members?.size === 0) {
    chats.delete(chatId);
    heard?.unsubscribe(`chat:${chatId}`);
  }
}

async function save(claims, command) {
  const response = await fetch(`${NEXT_API_URL}/api/chats/${claims.chatId}/messages/send`, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Internal-Secret": INTERNAL_API_SECRET },
    body: JSON.stringify({ content: command.content, role: command.role, userId: claims.userId }),
  });
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  const { message } = await response.json();
  return { ...message, role: message.role.toLowerCase(), timestamp: message.createdAt, createdAt: undefined };
}

sockets.on("connection", async (socket, request) => {
  let claims;
  try {
    claims = jwt.verify(new URL(request.url, "http://server").searchParams.get("token"), JWT_SECRET, { algorithms: ["HS256"] });
  } catch {
    socket.close(4002, "Invalid token");
    return;
  }
  socket.on("message", async (data) => {
    try {
      const command = JSON.parse(data);
      const timestamp = new Date().toISOString();
      if (command.type === "typing") {
        const typing = { userId: claims.userId, isTyping: command.isTyping };
        deliver(claims.chatId, JSON.stringify({ type: "typing", data: typing, timestamp }), socket);
      } else if (command.type === "message") {
        publish(claims.chatId, JSON.stringify({ type: "message", data: await save(claims, command), timestamp }));
      }
    } catch {
      socket.send('{"type":"error","error":"Failed to process message"}');
    }
  });
  socket.on("close", () => leave(claims.chatId, socket));
  await join(claims.chatId, socket);
  socket.send(JSON.stringify({ type: "connected", chatId: claims.chatId, timestamp: new Date().toISOString() }));
});

server.listen({ port: Number(PORT), host: "127.0.0.1", backlog: 4096 });
