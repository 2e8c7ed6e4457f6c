/**
 * The end of a pop-up, good or bad: sends the result to the opener, if its origin is a named one, and closes the window.
 *
 * It knows ids and a slug, never a token. A page that is not known to be a pop-up stays; so does a window that may not close.
 */
(() => {
  "use strict";

  /** A user who said no is done here; another failure is to be read. */
  const LINGER_MS = { connected: 1200, access_denied: 500, failed: 8000 };

  const part = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));
  const main = /** @type {HTMLElement} */ (document.querySelector("main"));
  const { outcome, targetOrigin, connection, provider, error, missingScope } = main.dataset;

  if (!window.opener) return;
  for (const origin of (targetOrigin ?? "").split(" ").filter(Boolean)) {
    const lacking = missingScope ? { missing_scope: missingScope } : {};
    window.opener.postMessage({ source: "oauth-gateway", connection, provider, error, ...lacking }, origin);
  }
  document.getElementById("action")?.setAttribute("hidden", "");
  part("close").hidden = false;
  part("close").addEventListener("click", () => window.close());
  if (!outcome) return;
  const timer = setTimeout(() => window.close(), LINGER_MS[outcome === "connected" ? "connected" : error === "access_denied" ? "access_denied" : "failed"]);
  const itself = (/** @type {boolean} */ yes) => {
    part("closes").hidden = !yes;
    part("stays").hidden = yes;
  };
  itself(true);
  // A user who reads or uses the keyboard closes the window themselves (WCAG 2.2.1).
  const stay = () => {
    clearTimeout(timer);
    itself(false);
  };
  addEventListener("keydown", stay, { once: true });
  addEventListener("pointerdown", stay, { once: true });
})();
