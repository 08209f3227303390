// A page with one of the hooks, for React 18 and 19. Every render makes new options and functions.
import { StrictMode, useState } from "react";
import { flushSync } from "react-dom";
import { createRoot } from "react-dom/client";
import { useEclipseChat, useWebSocketChat, type WebSocketChatMessage } from "eclipse-chat/react";
import { changeWith, first, hear, hook, root } from "./view.js";

type Props = { chatId: string; label: string };

const Eclipse = ({ chatId, label }: Props) => {
  const { chat, state, messages, pending, error, typists, send, typing } = useEclipseChat({
    tokenUrl: new URL("/api/ws/token", location.href),
    chatId,
    storage: sessionStorage,
    fetch: (...given) => {
      hear("token", label);
      return fetch(...given);
    },
    loadHistory: async ({ signal }) => {
      hear("history", label);
      return (await (await fetch(`/api/chats/${chatId}/messages`, { signal })).json()).messages;
    },
  });
  Object.assign(window, { chat, send, typing });
  return (
    <>
      <output>{state}</output>
      {messages.map(({ id, content }) => <p key={id}>{content}</p>)}
      {pending.map(({ clientMessageId, content }) => <i key={clientMessageId}>{content}</i>)}
      <b>{typists.length}</b>
      <u>{error?.code}</u>
    </>
  );
};

const Old = ({ chatId, label }: Props) => {
  const [messages, setMessages] = useState<WebSocketChatMessage[]>([]);
  const [typing, setTyping] = useState(false);
  const { sendMessage, sendTypingIndicator, broadcastAgentJoined, isConnected, error } = useWebSocketChat({
    chatId,
    enabled: label != "disabled",
    onMessage: (message) => {
      hear("message", label, message.timestamp instanceof Date, message.role);
      setMessages((old) => [...old, message]);
    },
    onMessageUpdated: ({ content, updatedAt }) => hear("updated", content, updatedAt instanceof Date),
    onAgentJoined: ({ agentName, timestamp }) => hear("joined", agentName, timestamp instanceof Date),
    onTyping: (userId, isTyping) => setTyping(isTyping),
    onError: (text) => hear("error", text),
    onConnected: () => hear("connected"),
    onDisconnected: () => hear("disconnected"),
    onReload: () => hear("reload"),
  });
  Object.assign(window, { send: sendMessage, typing: sendTypingIndicator, join: broadcastAgentJoined });
  return (
    <>
      <output>{isConnected ? "open" : "waiting"}</output>
      {messages.map(({ id, content }) => <p key={id}>{content}</p>)}
      <b>{+typing}</b>
      <u>{error}</u>
    </>
  );
};

const Page = () => {
  const [{ shown, chatId, texts }, set] = useState(first);
  changeWith((view) => flushSync(() => set((old) => ({ ...old, ...view }))));
  const Chat = hook == "useEclipseChat" ? Eclipse : Old;
  return shown && <Chat chatId={chatId} label={texts.title!} />;
};

createRoot(root).render(<StrictMode><Page /></StrictMode>);
