// A component that is edited while its page is open: what a bundler's fast refresh does, without the bundler.
import runtime from "react-refresh/runtime";
import { changeWith, first, hear, root } from "./view.js";

runtime.injectIntoGlobalHook(window); // before react-dom is loaded
const { default: { createRoot } } = await import("react-dom/client");
const { useEclipseChat } = await import("eclipse-chat/react");

const version = (name: string) => {
  const Page = () => {
    const { state, messages } = useEclipseChat({ tokenUrl: "/api/ws/token", chatId: first.chatId });
    hear(name);
    return <output title={name}>{state}</output>;
  };
  runtime.register(Page, "Page");
  runtime.setSignature(Page, "useEclipseChat");
  return Page;
};

const Page = version("before");
createRoot(root).render(<Page />);
changeWith(() => {
  version("after");
  runtime.performReactRefresh();
});
