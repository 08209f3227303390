// <eclipse-chat> in JSX, for React 18 and 19.
import type { HTMLAttributes, RefAttributes } from "react";
import type { EclipseChatElement, EclipseChatElementEventMap, Texts } from "eclipse-chat/widget";

/** React 19 listens to `onopen`; React 18 needs a ref and `addEventListener`. */
type Listeners = { [Type in keyof EclipseChatElementEventMap as `on${Type}`]?: (event: EclipseChatElementEventMap[Type]) => void };

export interface EclipseChatAttributes extends HTMLAttributes<EclipseChatElement>, RefAttributes<EclipseChatElement>, Listeners {
  class?: string;
  "token-url"?: string;
  "chat-id"?: string;
  "history-url"?: string;
  url?: string;
  as?: "user" | "agent";
  inline?: boolean;
  open?: boolean;
  lazy?: boolean;
  theme?: "light" | "dark";
  "no-title"?: boolean;
  "no-presence"?: boolean;
  /** JSON, or in React 19 an object. */
  texts?: string | Partial<Texts>;
  spread?: number;
  side?: "start" | "end";
}

declare module "react" {
  namespace JSX {
    interface IntrinsicElements {
      "eclipse-chat": EclipseChatAttributes;
    }
  }
}
