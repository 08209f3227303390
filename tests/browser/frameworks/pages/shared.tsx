// A page with several chats over one connection, for React 18 and 19: one of them is shown twice.
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { type EclipseChat } from "eclipse-chat";
import { useEclipseChat } from "eclipse-chat/react";
import { changeWith, first, root } from "./view.js";

const events = ["presence", "read"] as const;

const Chat = ({ connection, chatId }: { connection: EclipseChat | null; chatId: string }) => {
  const { state, messages, online, onlineCount, positions, read } = useEclipseChat({ connection, chatId });
  Object.assign(window, { read });
  return (
    <li data-state={state}>
      {chatId}: {messages.map(({ content }) => content).join()} ({online.map(({ userId }) => userId).join()}; {onlineCount}; {positions.map(({ messageId }) => messageId).join()})
    </li>
  );
};

const Page = () => {
  const [{ shown, chatId, texts }, set] = useState(first);
  changeWith((view) => set((old) => ({ ...old, ...view })));
  const { chat, state } = useEclipseChat({ tokenUrl: "/api/ws/token", chatId: texts.title!, events, enabled: shown });
  return (
    <>
      <output>{state}</output>
      {["a", "a", chatId].map((id, at) => <Chat key={at} connection={chat} chatId={id} />)}
    </>
  );
};

createRoot(root).render(<StrictMode><Page /></StrictMode>);
