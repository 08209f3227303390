// <script type="module" src=".../widget.js"> and <eclipse-chat token-url="/api/ws/token" chat-id="42">: see docs/widget.md.
import { EclipseChatElement } from "./element.ts";

export { EclipseChatElement };

if (!customElements.get("eclipse-chat")) customElements.define("eclipse-chat", EclipseChatElement);
