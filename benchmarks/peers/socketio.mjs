// A chat server as one writes it with Socket.IO: a token at the handshake, a room for each chat, its Redis adapter.
//
// PORT, JWT_SECRET, REDIS_URL. WebSocket alone, as its own documentation advises for load.
import http from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import Redis from "ioredis";
import jwt from "jsonwebtoken";
import { Server } from "socket.io";

const { PORT, JWT_SECRET, REDIS_URL } = process.env;
const server = http.createServer();
const io = new Server(server, { transports: ["websocket"], serveClient: false, perMessageDeflate: false });
io.adapter(createAdapter(new Redis(REDIS_URL), new Redis(REDIS_URL)));

io.use((socket, next) => {
  try {
    socket.data = jwt.verify(socket.handshake.query.token, JWT_SECRET, { algorithms: ["HS256"] });
    next();
  } catch (error) {
    next(error);
  }
});

io.on("connection", (socket) => {
  const { chatId, userId } = socket.data;
  socket.join(chatId);
  socket.emit("connected", { chatId, timestamp: new Date().toISOString() });
  socket.on("typing", (isTyping) => {
    socket.to(chatId).emit("typing", { userId, isTyping, timestamp: new Date().toISOString() });
  });
});

server.listen({ port: Number(PORT), host: "127.0.0.1", backlog: 4096 });
