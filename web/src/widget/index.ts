// <script type="module" src=".../widget.js"> and <eclipse-chat token-url="/api/ws/token" chat-id="42">: see docs/widget.md.
import { EclipseChatElement } from "./element.ts";

export { EclipseChatElement };

// A server that renders a page has no registry, and a page can load this twice.
if (globalThis.customElements && !customElements.get("eclipse-chat")) customElements.define("eclipse-chat", EclipseChatElement);
