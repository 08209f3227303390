// A page that was rendered on a server, whose element is in use before React takes the page over.
import { hydrateRoot } from "react-dom/client";
import { renderToString } from "react-dom/server";
import "eclipse-chat/widget";
import type {} from "eclipse-chat/react";
import { changeWith, first, root } from "./view.js";

const Page = () => <eclipse-chat token-url="/api/ws/token" chat-id={first.chatId} suppressHydrationWarning />;

root.innerHTML = renderToString(<Page />);
hydrateRoot(root, <Page />);
changeWith(() => {});
