// How the npm package's types are meant to be used; checked by tsc --strict, with the types of React 18 and of React 19.
import { useEffect, useRef } from "react";
import { connect, type EclipseChat, type Message, type State } from "eclipse-chat";
import { EclipseChatElement } from "eclipse-chat/widget";
import { type HistoryMessage, useEclipseChat, useWebSocketChat, type WebSocketChatMessage } from "eclipse-chat/react";

const client: EclipseChat = connect({ tokenUrl: "/api/ws/token", chatId: "42" });
client.on("message", ({ data }) => data.content.trim());

// -- the element -------------------------------------------------------------------------------

const element: EclipseChatElement = document.createElement("eclipse-chat");
element.texts = { title: "Questions?" };
element.open = true;
element.texts = JSON.stringify({ title: "Questions?" });
element.texts.title.trim();
element.show();
element.hide();
element.addEventListener("message", ({ detail }) => detail.content.trim());
element.addEventListener("state", (event) => event.detail == "open");
element.addEventListener("error", (event) => event.detail.code?.trim());
element.addEventListener("click", (event) => event.clientX);
document.querySelector("eclipse-chat")?.chat?.send("hello");
// @ts-expect-error not a boolean
element.open = "yes";
// @ts-expect-error counted by the element alone
element.unread = 5;

// @ts-expect-error no such text
element.texts = { tilte: "Questions?" };
// @ts-expect-error only the browser calls it
element.connectedCallback();
new EclipseChatElement().draft.trim();

// -- React -------------------------------------------------------------------------------------

export const Elements = ({ open }: { open: boolean }) => {
  const ref = useRef<EclipseChatElement>(null);
  useEffect(() => ref.current?.addEventListener("unread", (event) => event.detail.toFixed()), []);
  return (
    <main>
      <eclipse-chat token-url="/api/ws/token" chat-id="42" open={open} texts={{ title: "Questions?" }} ref={ref} />
      <eclipse-chat token-url="/t" chat-id="42" history-url="none" as="agent" side="start" spread={0} inline lazy no-title class="chat" style={{ height: 300 }} />
      <eclipse-chat onopen={() => {}} onmessage={({ detail }) => detail.content.trim()} key="1" hidden />
      {/* @ts-expect-error no such theme */}
      <eclipse-chat theme="pink" />
      {/* @ts-expect-error no such attribute */}
      <eclipse-chat tokenUrl="/t" />
    </main>
  );
};

export const Chat = ({ id }: { id: string }) => {
  const { chat, state, messages, pending, error, typists, send, retry, discard, typing } = useEclipseChat({
    tokenUrl: "/api/ws/token",
    chatId: id,
    enabled: id != "",
    loadHistory: async ({ signal }): Promise<HistoryMessage[]> => (await fetch(`/api/chats/${id}/messages`, { signal })).json(),
  });
  useEffect(() => chat?.on("agent_joined", ({ data }) => data.agentName.trim()), [chat]);
  const shown: Message[] = messages;
  const now: State = state;
  return (
    <form onSubmit={() => send("hello", "USER")} onKeyDown={() => typing()}>
      {shown.map(({ id, content }) => <p key={id}>{content}</p>)}
      {pending.map(({ clientMessageId, status }) => <button key={clientMessageId} onClick={() => (status == "failed" ? retry : discard)(clientMessageId)} />)}
      {now} {error?.code} {typists.join()}
    </form>
  );
};

export const TokenChat = () => useEclipseChat({ token: async () => ({ token: "x", wsUrl: "wss://x" }) }).state;
// @ts-expect-error neither token nor tokenUrl
export const NoToken = () => useEclipseChat({ chatId: "42" }).state;

export const Desk = ({ ids }: { ids: string[] }) => {
  const { chat, online, onlineCount } = useEclipseChat({ tokenUrl: "/t", events: ["presence"] });
  return <>{online.map(({ userId }) => userId).join()}{onlineCount}{ids.map((id) => <Row key={id} connection={chat} id={id} />)}</>;
};
const Row = ({ connection, id }: { connection: EclipseChat | null; id: string }) => {
  const { positions, read } = useEclipseChat({ connection, chatId: id, cursor: "e.1", loadHistory: async () => [] });
  return <p onClick={() => read("m1")}>{positions.map(({ messageId }) => messageId).join()}</p>;
};
// @ts-expect-error which chat
export const NoChat = () => useEclipseChat({ connection: null }).state;

export const OldPage = () => {
  const { sendMessage, sendTypingIndicator, broadcastAgentJoined, isConnected, error } = useWebSocketChat({
    chatId: "42",
    enabled: true,
    onMessage: (message: WebSocketChatMessage) => message.timestamp.getTime() + message.sender.name.length,
    onMessageUpdated: (message) => message.updatedAt.getTime(),
    onAgentJoined: ({ agentId, agentName, timestamp }) => agentId + agentName + timestamp.toISOString(),
    onTyping: (userId: string, isTyping: boolean) => isTyping && userId.trim(),
    onError: (error: string) => error.trim(),
    onConnected: () => {},
    onDisconnected: () => {},
  });
  const sent: Promise<boolean> = sendMessage("hello", "AGENT");
  const done: void = sendTypingIndicator(true);
  broadcastAgentJoined("1", "Ada");
  const connected: boolean = isConnected;
  const text: string | null = error;
  return [sent, done, connected, text].length;
};
// @ts-expect-error roles are in upper case
export const WrongRole = () => useWebSocketChat({ chatId: "42", enabled: true }).sendMessage("hello", "agent");
