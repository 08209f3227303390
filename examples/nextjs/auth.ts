// Replaces Auth.js: anybody with this cookie is the agent. THIS IS NOT AUTHENTICATION: anybody can set a cookie.
import { cookies } from "next/headers";

export const AGENT_COOKIE = "example_agent";

type Session = { user: { id: string; role: string } };

export async function auth(): Promise<Session | null> {
  return (await cookies()).has(AGENT_COOKIE) ? { user: { id: "agent", role: "AGENT" } } : null;
}
