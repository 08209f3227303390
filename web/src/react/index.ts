"use client";
export type { EclipseChatAttributes } from "./elements.js";
export { type EclipseChatView, type HistoryMessage, useEclipseChat, type UseEclipseChatOptions } from "./useEclipseChat.js";
export { useWebSocketChat, type UseWebSocketChatOptions, type WebSocketChat, type WebSocketChatMessage } from "./useWebSocketChat.js";
