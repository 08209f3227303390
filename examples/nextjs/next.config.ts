import { existsSync } from "node:fs";
import { join } from "node:path";
import type { NextConfig } from "next";

// The application needs the server's two secrets. `make run` takes them from .env in the repository, or else makes them up
// and keeps them in .eclipse-dev-secrets. Your own application has them in its .env.local instead.
for (const name of [".env", ".eclipse-dev-secrets"]) {
  const file = join(import.meta.dirname, "../..", name);
  if (existsSync(file)) process.loadEnvFile(file);
}
if (!process.env.JWT_SECRET) console.warn("JWT_SECRET is not set. Start the server first: make run ECLIPSE_API=http");

export default {} satisfies NextConfig;
