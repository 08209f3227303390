import type { Message, Role } from "eclipse-chat";
import { type Follow, type Store, useClient } from "./useClient.js";

export interface WebSocketChatMessage {
  id: string;
  content: string;
  role: "user" | "assistant" | "agent" | "system";
  timestamp: Date;
  sender: { id: string; name: string; email?: string; avatar?: string };
}

export interface UseWebSocketChatOptions {
  chatId: string;
  enabled: boolean;
  onMessage?: (message: WebSocketChatMessage) => void;
  onMessageUpdated?: (message: WebSocketChatMessage & { updatedAt: Date }) => void;
  onAgentJoined?: (agent: { agentId: string; agentName: string; timestamp: Date }) => void;
  onTyping?: (userId: string, isTyping: boolean) => void;
  onError?: (error: string) => void;
  onConnected?: () => void;
  onDisconnected?: () => void;
  /** Messages may have been missed: load the chat again. Called on the first connect, too. */
  onReload?: () => void;
  /** Where tokens come from. Default: `/api/ws/token`. */
  tokenUrl?: string | URL;
}

export interface WebSocketChat {
  /** Sends a message, or keeps it until there is a connection; `false` if it is blank or there is no chat. */
  sendMessage: (content: string, role: Role) => Promise<boolean>;
  sendTypingIndicator: (isTyping: boolean) => void;
  broadcastAgentJoined: (agentId: string, agentName: string) => void;
  isConnected: boolean;
  error: string | null;
}

type View = Pick<WebSocketChat, "isConnected" | "error">;
type Latest = Omit<UseWebSocketChatOptions, "enabled"> & { tokenUrl: string | URL };

const empty: View = { isConnected: false, error: null };

const dated = (data: Message) => ({ ...data, sender: data.sender ?? { id: "", name: "" }, timestamp: new Date(data.timestamp) }) as WebSocketChatMessage;

const follow: Follow<View, Latest> = ({ on, show, latest }) => {
  let open = false;
  let told = "";

  const complain = (error: string) => {
    show({ error: (told = error) });
    latest.current.onError?.(error);
  };
  on("state", ({ state }) => {
    if ((state == "open") == open) return;
    open = state == "open";
    told = "";
    show({ isConnected: open, ...(open && { error: null }) });
    latest.current[open ? "onConnected" : "onDisconnected"]?.();
  });
  on("reload", () => latest.current.onReload?.());
  on("message", ({ data }) => latest.current.onMessage?.(dated(data)));
  on("message_updated", ({ data }) => latest.current.onMessageUpdated?.({ ...dated(data), updatedAt: new Date(data.updatedAt ?? data.timestamp) }));
  on("agent_joined", ({ data, timestamp }) => latest.current.onAgentJoined?.({ ...data, timestamp: new Date(data.timestamp ?? timestamp) }));
  on("typing", ({ data }) => latest.current.onTyping?.(data.userId, data.isTyping));
  on("failed", ({ error }) => complain(error));
  // Of a server that can't be reached, only the first of many attempts is told.
  on("error", ({ error }) => error == told || complain(error));
};

const makeActions = ({ chat, show }: Store<View>) => ({
  sendMessage: async (content: string, role: Role) => {
    const current = chat();
    try {
      if (current && current.state != "closed") return !!current.send(content.trim(), role);
      show({ error: "Not connected: there is no chat, or it has ended" });
    } catch (error) {
      show({ error: (error as Error).message });
    }
    return false;
  },
  sendTypingIndicator: (isTyping: boolean) => chat()?.typing(isTyping),
  broadcastAgentJoined: (agentId: string, agentName: string) => chat()?.joined({ agentId, agentName }),
});

/**
 * The hook of pages that were written for the previous server, with the same options and results. What it adds:
 * messages that are written offline are kept and sent, and a reconnect brings what was missed.
 */
export const useWebSocketChat = ({ enabled, tokenUrl = "/api/ws/token", ...options }: UseWebSocketChatOptions): WebSocketChat =>
  useClient(enabled && !!options.chatId, { tokenUrl, ...options }, empty, follow, makeActions);
