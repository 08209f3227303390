// React 18 sets attributes alone: an object is assigned, and events are listened to, through a ref.
import { StrictMode, useEffect, useRef, useState } from "react";
import { createRoot } from "react-dom/client";
import type { EclipseChatElement } from "eclipse-chat/widget";
import type {} from "eclipse-chat/react";
import { changeWith, first, hear, root } from "./view.js";

const Page = () => {
  const [{ shown, open, chatId, texts }, set] = useState(first);
  const change = (view: Partial<typeof first>) => set((old) => ({ ...old, ...view }));
  changeWith(change);
  const ref = useRef<EclipseChatElement>(null);
  useEffect(() => void (ref.current && (ref.current.texts = texts)), [texts]);
  useEffect(() => {
    const element = ref.current;
    const heard = ({ type }: Event) => {
      hear(type);
      change({ open: type == "open" });
    };
    for (const type of ["open", "close"]) element?.addEventListener(type, heard);
    return () => {
      for (const type of ["open", "close"]) element?.removeEventListener(type, heard);
    };
  }, []);
  return shown && <eclipse-chat token-url="/api/ws/token" chat-id={chatId} open={open} ref={ref} />;
};

createRoot(root).render(<StrictMode><Page /></StrictMode>);
