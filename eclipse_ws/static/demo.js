// The customer's page. On a page of your own, the widget is two lines of HTML:
//   <script type="module" src="https://chat.example.com/widget.js"></script>
//   <eclipse-chat token-url="/api/ws/token" chat-id="42"></eclipse-chat>
// Here it is made by a script, because every visitor of the demo gets a chat of their own.
import "/widget.js";

const asked = new URLSearchParams(location.search);
const dark = matchMedia("(prefers-color-scheme: dark)");

const paint = () => (document.documentElement.dataset.theme = asked.get("theme") ?? (dark.matches ? "dark" : "light"));
paint();
dark.addEventListener("change", paint);
if (asked.get("dir") == "rtl") {
  document.documentElement.dir = "rtl";
  // The layout turns round, the shop's own sentences stay English.
  for (const text of document.querySelectorAll("h1, h2, h3, .facts li, p:not(.actions)")) text.dir = "auto";
}

/** A name that is easy to tell apart on the agents' desk. */
const fresh = () => {
  const letters = "abcdefghjkmnpqrstuvwxyz23456789";
  const pick = crypto.getRandomValues(new Uint8Array(5));
  return "visitor-" + Array.from(pick, (n) => letters[n % letters.length]).join("");
};

let chatId = asked.get("chat");
try {
  chatId ||= localStorage.getItem("demo:chat");
  localStorage.setItem("demo:chat", (chatId ||= fresh()));
} catch {
  chatId ||= fresh(); // storage is forbidden: a new customer with every reload
}

const widget = document.createElement("eclipse-chat");
const attributes = {
  "token-url": "/api/ws/token",
  "history-url": "/api/chats/{chatId}/messages?limit=1000",
  "chat-id": chatId,
  spread: 2000, // few visitors: no need to spread them over 20 s after a restart
  theme: asked.get("theme"),
};
for (const [name, value] of Object.entries(attributes)) if (value) widget.setAttribute(name, value);
widget.texts = { title: "Penumbra", subtitle: "People answer, not menus", empty: "Good evening! Which lamp may we tell you about?" };
if (asked.get("dir") == "rtl")
  widget.texts = { title: "Penumbra", subtitle: "أشخاص يجيبون عن أسئلتك", open: "افتح المحادثة", close: "أغلق المحادثة", messages: "الرسائل", placeholder: "اكتب رسالة…", send: "إرسال", empty: "مساء الخير! كيف يمكننا مساعدتك؟", sending: "جارٍ الإرسال…", sent: "أُرسلت", typing: "{name} يكتب الآن…", joined: "انضمّ {name} إلى المحادثة", today: "اليوم", yesterday: "أمس", latest: "رسائل جديدة", newest: "أحدث الرسائل" };
if (asked.has("open")) widget.setAttribute("open", "");
document.body.append(widget);

for (const button of document.querySelectorAll("[data-chat]")) button.addEventListener("click", () => widget.show());
document.querySelector("#desk").href = "/demo/agent?chat=" + encodeURIComponent(chatId);
document.querySelector("#fresh").addEventListener("click", () => {
  try {
    localStorage.removeItem("demo:chat");
  } catch {}
  location.assign("/demo");
});
