import { createApp, reactive } from "vue/dist/vue.esm-bundler.js";
import { changeWith, first, hear, late, root } from "./view.js";

const view = reactive({ ...first });
changeWith((change) => Object.assign(view, change));

const app = createApp({
  setup: () => ({
    view,
    heard: ({ type }) => {
      hear(type);
      view.open = type == "open";
    },
  }),
  template: `
    <eclipse-chat v-if="view.shown" token-url="/api/ws/token" :chat-id="view.chatId" :open="view.open"
      ${late ? ":texts.prop" : ":texts"}="view.texts" @open="heard" @close="heard" />`,
});
app.config.compilerOptions.isCustomElement = (tag) => tag == "eclipse-chat";
app.mount(root);
