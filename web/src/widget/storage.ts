type Name = "localStorage" | "sessionStorage";

/** What a storage holds under a key; null if that is nothing, or storage is forbidden. */
export function recall(storage: Name, key: string): string | null {
  try {
    return window[storage].getItem(key);
  } catch {
    return null;
  }
}

/** Put a text into a storage, or take it away if it is empty. Where storage is forbidden or full, this page alone remembers. */
export function keep(storage: Name, key: string, text: string): void {
  try {
    if (text) window[storage].setItem(key, text);
    else window[storage].removeItem(key);
  } catch {}
}
