"use client";

import { useWebSocketChat } from "eclipse-chat/react";
import { type FormEvent, useEffect, useRef, useState } from "react";

type Message = { id: string; content: string; role: string; timestamp: Date; sender: { name: string | null } };

/** Both lists as one: each message once, oldest first. */
function merge(known: Message[], more: Message[]) {
  const byId = new Map([...known, ...more].map((message) => [message.id, message]));
  return [...byId.values()].sort((one, other) => +one.timestamp - +other.timestamp);
}

async function loadHistory(chatId: string): Promise<Message[]> {
  const answer = await fetch(`/api/chats/${chatId}/messages`);
  if (!answer.ok) throw new Error(`The history answered ${answer.status}`);
  const { messages } = await answer.json();
  return messages.map((message: Message & { createdAt: string }) => ({
    ...message,
    role: message.role.toLowerCase(),
    timestamp: new Date(message.createdAt),
  }));
}

export function Chat({ chatId }: { chatId: string }) {
  const [messages, setMessages] = useState<Message[]>([]);
  const [waiting, setWaiting] = useState<string[]>([]); // written here, and not in messages yet
  const [isAgentTyping, setIsAgentTyping] = useState(false);
  const [text, setText] = useState("");
  const list = useRef<HTMLOListElement>(null);

  function take(more: Message[]) {
    setMessages((known) => merge(known, more));
    const saved = more.filter(({ role }) => role === "user").map(({ content }) => content);
    setWaiting((texts) => texts.filter((text) => !saved.includes(text)));
  }

  const { sendMessage, sendTypingIndicator, isConnected, error } = useWebSocketChat({
    chatId,
    enabled: true,
    onMessage: (message) => {
      take([message]);
      if (message.role !== "user") setIsAgentTyping(false);
    },
    onMessageUpdated: (message) => take([message]),
    onTyping: (_userId, isTyping) => setIsAgentTyping(isTyping),
    onDisconnected: () => setIsAgentTyping(false),
    onError: (reason) => console.warn("Chat:", reason), // for developers: customers read the status
  });

  // Load it again after each reconnect: nothing is missing then, however long the outage was.
  useEffect(() => {
    loadHistory(chatId).then(take, (error) => console.warn("Chat:", error));
  }, [chatId, isConnected]);

  useEffect(() => {
    list.current?.scrollTo({ top: list.current.scrollHeight });
  }, [messages, waiting, isAgentTyping]);

  async function send(event: FormEvent) {
    event.preventDefault();
    setText("");
    sendTypingIndicator(false);
    if (await sendMessage(text, "USER")) setWaiting((texts) => [...texts, text.trim()]);
    else setText((now) => now || text);
  }

  return (
    <section className="chat">
      <p role="status">
        {isConnected ? (error ?? "Connected") : "Connecting… Messages are sent once there is a connection."}
      </p>
      <ol ref={list}>
        {messages.map(({ id, content, role, sender }) => (
          <li key={id} className={role === "user" ? "mine" : "theirs"}>
            {role !== "user" && <b>{sender.name ?? "Agent"}</b>}
            <span>{content}</span>
          </li>
        ))}
        {waiting.map((text, index) => (
          <li key={index} className="mine waiting">
            <span>{text}</span>
          </li>
        ))}
        {isAgentTyping && <li className="theirs">…</li>}
      </ol>
      <form onSubmit={send}>
        <input
          aria-label="Message"
          placeholder="Write a message…"
          value={text}
          onChange={({ target }) => {
            setText(target.value);
            sendTypingIndicator(target.value !== "");
          }}
        />
        <button disabled={!text.trim()}>Send</button>
      </form>
    </section>
  );
}
