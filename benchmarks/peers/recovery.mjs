// A broadcast with Socket.IO and its connection state recovery, as its documentation has it: in memory, or with
// REDIS_URL on its Redis Streams adapter, which keeps the state for all nodes.
//
// PORT, JWT_SECRET, INTERNAL_API_SECRET. POST /publish with the secret sends the body's JSON to the room "contest".
import http from "node:http";
import jwt from "jsonwebtoken";
import { Server } from "socket.io";

const { PORT, JWT_SECRET, INTERNAL_API_SECRET, REDIS_URL } = process.env;
const server = http.createServer(async (request, response) => {
  if (request.url !== "/publish" || request.headers["x-internal-secret"] !== INTERNAL_API_SECRET) {
    response.writeHead(404).end();
    return;
  }
  let body = "";
  for await (const chunk of request) body += chunk;
  io.to("contest").emit("tick", JSON.parse(body));
  response.writeHead(202).end("{}");
});

let adapter, redis;
if (REDIS_URL) {
  const { default: Redis } = await import("ioredis");
  const { createAdapter } = await import("@socket.io/redis-streams-adapter");
  redis = new Redis(REDIS_URL);
  adapter = createAdapter(redis);
}
const io = new Server(server, {
  transports: ["websocket"],
  serveClient: false,
  perMessageDeflate: false,
  connectionStateRecovery: { maxDisconnectionDuration: 2 * 60 * 1000 },
  ...(adapter && { adapter }),
});

io.use((socket, next) => {
  try {
    socket.data = jwt.verify(socket.handshake.query.token, JWT_SECRET, { algorithms: ["HS256"] });
    next();
  } catch (error) {
    next(error);
  }
});

io.on("connection", (socket) => {
  if (!socket.recovered) socket.join(socket.data.chatId);
});

process.on("SIGTERM", async () => {
  await io.close();
  await redis?.quit(); // after the states of the sockets that were closed are written
  process.exit(0);
});

server.listen({ port: Number(PORT), host: "127.0.0.1", backlog: 4096 });
