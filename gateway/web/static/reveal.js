/**
 * A button beside each secret field: shows what was typed, and hides it again before the form is sent.
 *
 * Without this script the buttons stay hidden, and the form works.
 */
(() => {
  "use strict";

  for (const button of /** @type {NodeListOf<HTMLButtonElement>} */ (document.querySelectorAll(".reveal"))) {
    const field = /** @type {HTMLInputElement} */ (document.getElementById(button.getAttribute("aria-controls") ?? ""));
    const word = /** @type {HTMLElement} */ (button.firstElementChild);
    const words = { password: word.textContent, text: button.dataset.hide ?? "" };
    const turn = (/** @type {"password" | "text"} */ type) => {
      field.type = type;
      word.textContent = words[type];
    };
    button.hidden = false;
    button.addEventListener("click", () => turn(field.type === "text" ? "password" : "text"));
    field.form?.addEventListener("submit", () => turn("password"));
  }
})();
