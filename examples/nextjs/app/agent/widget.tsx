"use client";

// From npm rather than from the server's /widget.js: it is built, cached and checked together with this application.
import "eclipse-chat/widget";

export function Widget({ chatId }: { chatId: string }) {
  return (
    <eclipse-chat
      token-url="/api/ws/token"
      chat-id={chatId}
      as="agent"
      inline
      onerror={({ detail }) => console.warn("Chat:", detail.error)}
      suppressHydrationWarning // it writes the attribute "state" before React compares
    />
  );
}
