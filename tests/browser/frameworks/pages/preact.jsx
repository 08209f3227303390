import { render } from "preact";
import { useState } from "preact/hooks";
import { changeWith, first, hear, late, root } from "./view.js";

const Page = () => {
  const [{ shown, open, chatId, texts }, set] = useState(first);
  const change = (view) => set((old) => ({ ...old, ...view }));
  changeWith(change);
  const heard = (event, isOpen) => {
    hear(event.type);
    change({ open: isOpen });
  };
  return (
    shown && (
      <eclipse-chat
        token-url="/api/ws/token"
        chat-id={chatId}
        open={open}
        texts={late ? undefined : texts}
        ref={late ? (element) => void (element && (element.texts = texts)) : undefined}
        onopen={(event) => heard(event, true)}
        onclose={(event) => heard(event, false)}
      />
    )
  );
};

render(<Page />, root);
