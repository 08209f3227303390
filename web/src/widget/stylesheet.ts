import composer from "./styles/composer.css";
import header from "./styles/header.css";
import messages from "./styles/messages.css";
import placement from "./styles/placement.css";
import theme from "./styles/theme.css";

let shared: CSSStyleSheet | undefined;

/** The one style sheet that all elements share; it is constructed, so that no content security policy objects. */
export function stylesheet(): CSSStyleSheet {
  if (!shared) {
    shared = new CSSStyleSheet();
    shared.replaceSync(theme + placement + header + messages + composer);
  }
  return shared;
}
