"use client";

import { connect } from "eclipse-chat";
import { useRouter } from "next/navigation";
import { useEffect } from "react";

/** Loads the page's list again when an event in the agents' inbox says that it has changed. */
export function Inbox() {
  const router = useRouter();
  useEffect(() => {
    const inbox = connect({ tokenUrl: "/api/ws/token", chatId: "inbox:support", storage: null });
    inbox.on("event", () => router.refresh());
    inbox.on("reload", () => router.refresh()); // events may have been missed
    return () => inbox.close();
  }, [router]);
  return null;
}
