// Shortcuts of one key, the help that lists them, and the theme button. They can be switched off in the help.

import { byId, set, text } from "./dom.js";
import { remembered } from "./remembered.js";

const theme = remembered("vaultdb-theme", ["system", "light", "dark"]);
const shortcuts = remembered("vaultdb-shortcuts", ["on", "off"]);

export function startKeyboard(actions) {
  const all = { ...actions, t: nextTheme, "?": showHelp };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open || event.target.matches("input:not([type=radio])")) return;
    if (shortcuts.value === "off" && event.key !== "?") return;
    const action = all[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
  byId("theme-button").addEventListener("click", nextTheme);
  byId("help-button").addEventListener("click", showHelp);
  byId("keys-switch").checked = shortcuts.value === "on";
  byId("keys-switch").addEventListener("change", (event) => {
    shortcuts.value = event.target.checked ? "on" : "off";
  });
  applyTheme();
}

function nextTheme() {
  theme.value = theme.next();
  applyTheme();
}

function applyTheme() {
  set(document.documentElement, { "data-theme": theme.value === "system" ? null : theme.value });
  text(byId("theme-name"), theme.value);
}

function showHelp() {
  byId("help").showModal();
}
