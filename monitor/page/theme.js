// Runs before the first paint, so that a remembered theme does not flash.
"use strict";
try {
  const theme = localStorage.getItem("vaultdb-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage is blocked: the system's theme is used.
}
