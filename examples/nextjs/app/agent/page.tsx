import Link from "next/link";
import { redirect } from "next/navigation";
import { auth } from "@/auth";
import { prisma } from "@/lib/prisma";
import { Inbox } from "./inbox";
import { Widget } from "./widget";

export default async function Page({ searchParams }: { searchParams: Promise<{ chat?: string }> }) {
  if (!(await auth())) redirect("/");
  const chats = (await prisma.chat.findMany()).reverse();
  const chosen = (await searchParams).chat ?? chats[0]?.id;
  return (
    <>
      <Inbox />
      <h1>Customers</h1>
      {chosen ? (
        <div className="desk">
          <nav>
            {chats.map(({ id, customerHere }) => (
              <Link key={id} href={`/agent?chat=${id}`} aria-current={id === chosen ? "page" : undefined}>
                Customer {id.slice(0, 4)}
                {customerHere && " (here)"}
              </Link>
            ))}
          </nav>
          <Widget chatId={chosen} />
        </div>
      ) : (
        <p>Nobody has asked anything. Be the customer in another browser.</p>
      )}
    </>
  );
}
