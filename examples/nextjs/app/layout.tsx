import type { Metadata } from "next";
import Link from "next/link";
import type { ReactNode } from "react";
import "./style.css";

export const metadata: Metadata = { title: "eclipse-ws with Next.js", icons: "data:," };

export default function Layout({ children }: { children: ReactNode }) {
  return (
    <html lang="en">
      <body>
        <header>
          <Link href="/">eclipse-ws with Next.js</Link>
          <p>An example: anybody who clicks “I am the agent” is the agent. That is not authentication.</p>
        </header>
        <main>{children}</main>
      </body>
    </html>
  );
}
