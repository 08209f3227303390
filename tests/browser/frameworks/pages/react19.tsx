import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import type { EclipseChatElement } from "eclipse-chat/widget";
import type {} from "eclipse-chat/react";
import { changeWith, first, hear, late, root } from "./view.js";

const Page = () => {
  const [{ shown, open, chatId, texts }, set] = useState(first);
  const change = (view: Partial<typeof first>) => set((old) => ({ ...old, ...view }));
  changeWith(change);
  const heard = (event: Event, isOpen: boolean) => {
    hear(event.type);
    change({ open: isOpen });
  };
  const assign = (element: EclipseChatElement | null) => void (element && (element.texts = texts));
  return (
    shown && (
      <eclipse-chat
        token-url="/api/ws/token"
        chat-id={chatId}
        open={open}
        texts={late ? undefined : texts}
        ref={late ? assign : undefined}
        onopen={(event) => heard(event, true)}
        onclose={(event) => heard(event, false)}
      />
    )
  );
};

createRoot(root).render(<StrictMode><Page /></StrictMode>);
