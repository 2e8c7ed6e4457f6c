/**
 * The end of a pop-up: sends the result to the opener, if its origin is the named one, and closes the window.
 *
 * It knows ids and a slug, never a token. Where the window may not close, the page stays and says so.
 */
(() => {
  "use strict";

  const LINGER_MS = { connected: 1200, failed: 8000 };

  const part = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));
  const { outcome, targetOrigin, connection, provider, error } = part("result").dataset;

  if (window.opener && targetOrigin) {
    window.opener.postMessage({ source: "oauth-gateway", connection, provider, error }, targetOrigin);
  }
  if (window.opener) {
    const timer = setTimeout(() => window.close(), LINGER_MS[outcome === "connected" ? "connected" : "failed"]);
    const yours = part("closing").textContent;
    part("closing").textContent = "This window closes by itself.";
    // A user who reads or uses the keyboard closes the window themselves (WCAG 2.2.1).
    const stay = () => {
      clearTimeout(timer);
      part("closing").textContent = yours;
    };
    addEventListener("keydown", stay, { once: true });
    addEventListener("pointerdown", stay, { once: true });
    part("close").hidden = false;
    part("close").addEventListener("click", () => window.close());
  }
})();
