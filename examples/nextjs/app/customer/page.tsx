import { redirect } from "next/navigation";
import { visitorsChat } from "@/lib/visitor";
import { Chat } from "./chat";

export default async function Page() {
  const chat = await visitorsChat();
  if (!chat) redirect("/");
  return (
    <>
      <h1>Ask us</h1>
      <Chat chatId={chat.id} />
    </>
  );
}
