// A chat server as one writes it with uWebSockets.js: a token at the upgrade, its own topics, `publish` to a chat.
//
// PORT, JWT_SECRET.
import uws from "@btc-vision/uwebsockets.js";
import jwt from "jsonwebtoken";

const { PORT, JWT_SECRET } = process.env;
const decoder = new TextDecoder();

uws
  .App()
  .ws("/*", {
    compression: uws.DISABLED,
    maxPayloadLength: 128 * 1024,
    upgrade(response, request, context) {
      let claims = null;
      try {
        claims = jwt.verify(request.getQuery("token") ?? "", JWT_SECRET, { algorithms: ["HS256"] });
      } catch {}
      response.upgrade(
        { claims },
        request.getHeader("sec-websocket-key"),
        request.getHeader("sec-websocket-protocol"),
        request.getHeader("sec-websocket-extensions"),
        context,
      );
    },
    open(socket) {
      const { claims } = socket.getUserData();
      if (!claims) {
        socket.end(4002, "Invalid token");
        return;
      }
      socket.subscribe(claims.chatId);
      socket.send(JSON.stringify({ type: "connected", chatId: claims.chatId, timestamp: new Date().toISOString() }));
    },
    message(socket, data) {
      const { claims } = socket.getUserData();
      const command = JSON.parse(decoder.decode(data));
      if (command.type !== "typing") return;
      const typing = { userId: claims.userId, isTyping: command.isTyping };
      // To all of the topic but this socket.
      socket.publish(claims.chatId, JSON.stringify({ type: "typing", data: typing, timestamp: new Date().toISOString() }));
    },
  })
  .listen("127.0.0.1", Number(PORT), (listening) => {
    if (!listening) process.exit(1);
  });
