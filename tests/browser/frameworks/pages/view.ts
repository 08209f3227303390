// What the pages of all frameworks do alike: a test changes their state with `change`, and reads what they heard.
export interface View {
  shown: boolean;
  open: boolean;
  chatId: string;
  texts: Record<string, string>;
}

const query = new URLSearchParams(location.search);
const given = <Value>(name: string, otherwise: Value): Value => JSON.parse(query.get(name) ?? JSON.stringify(otherwise));

export const first: View = { shown: true, open: given("open", false), chatId: query.get("chat")!, texts: { title: "Questions?" } };
/** Whether the element is defined only after the page has been rendered, as with a script that loads late. */
export const late = query.has("late");
/** Which hook the page uses. */
export const hook = query.get("hook");
export const root = document.querySelector("main")!;

const page = window as unknown as { heard: unknown[]; change: (view: Partial<View>) => void; define: () => Promise<unknown> };
page.heard = [];
page.define = () => import("eclipse-chat/widget");

/** Remembers for the test what the page was told. */
export const hear = (...what: unknown[]) => void page.heard.push(what.length > 1 ? what : what[0]);
/** Lets a test change the page's state. */
export const changeWith = (change: (view: Partial<View>) => void) => void (page.change = change);
if (!late && !hook) await page.define();
