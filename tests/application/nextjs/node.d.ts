// What the documented code takes from Node: the types of @types/node would be read for a second in every run.
declare module "node:crypto" {
  interface Hash { update(text: string): Hash; digest(): Uint8Array; digest(form: "hex"): string }
  interface Hmac { update(bytes: Uint8Array): Hmac; digest(form: "hex"): string }
  export function createHash(name: "sha256"): Hash;
  export function createHmac(name: "sha256", key: string): Hmac;
  export function timingSafeEqual(one: Uint8Array, other: Uint8Array): boolean;
}

declare module "node:async_hooks" {
  export class AsyncLocalStorage<T> { getStore(): T | undefined; run<R>(store: T, body: () => R): R }
}

declare const process: { env: Record<string, string | undefined> };
