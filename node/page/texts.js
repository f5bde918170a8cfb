// The language of the page: English or Indonesian, as the switch at the top was left in this browser; the first time,
// as the browser prefers. english.js and indonesian.js hold the sentences.

import { ENGLISH } from "./english.js";
import { INDONESIAN } from "./indonesian.js";
import { get, html } from "./drawing.js";

const KEPT = "rakit-language";
const NAMES = { en: "English", id: "Bahasa Indonesia" };

// A browser that keeps nothing for this page throws an error.
function kept() {
  try {
    return localStorage.getItem(KEPT);
  } catch {
    return null;
  }
}

export const language = kept() ?? (navigator.language.startsWith("id") ? "id" : "en");
export const TEXT = language === "id" ? INDONESIAN : ENGLISH;

// Sets the language of the document, and makes the switch. A change loads the page anew: every text is made once.
export function startLanguages() {
  document.documentElement.lang = language;
  get("languages").setAttribute("aria-label", TEXT.language);
  for (const [code, name] of Object.entries(NAMES)) {
    const pressed = String(code === language);
    const made = html("button", { type: "button", lang: code, "aria-pressed": pressed, id: `language-${code}` }, name);
    made.addEventListener("click", () => {
      localStorage.setItem(KEPT, code);
      location.reload();
    });
    get("languages").append(made);
  }
}
