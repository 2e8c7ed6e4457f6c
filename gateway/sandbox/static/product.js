"use strict";
// The product's own script: it asks the gateway's helper to connect, and shows how that ended. Without it the same
// forms post by themselves.
(() => {
  const notice = document.getElementById("notice");
  const happened = document.getElementById("happened");

  function element(name, text, className) {
    const made = document.createElement(name);
    made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  /** Tells the product's server how a pop-up ended, and shows the sentence that it answers. */
  async function show(ending) {
    const answer = await fetch("/happened", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(ending),
    });
    const said = await answer.json();
    const box = element("div", "", `notice ${said.tone}`);
    box.append(element("strong", said.title), " ", element("span", said.tone === "bad" ? said.text : notice.dataset.good));
    notice.replaceChildren(box);
    const item = element("li", "", said.tone);
    item.append(element("b", said.title), " ", element("code", said.tone === "bad" ? said.code : said.text));
    happened.prepend(item);
    document.getElementById("nothing").hidden = true;
  }

  async function connect(form, popup) {
    const provider = form.dataset.provider;
    const accessToken = form.elements.access_token.value;
    try {
      const ending = await window.gateway.connect(provider, { accessToken, returnTo: `${location.origin}/`, popup });
      await show({ connection: ending.connection, provider: ending.provider || provider });
    } catch (failure) {
      if (failure.slug === "blocked") return connect(form, false);
      await show({ error: failure.slug || "failed", provider });
    }
  }

  // What is connected, and its events as they come. A part that is unfolded or read stays as it is.
  const now = document.getElementById("now");
  async function renew() {
    if (document.hidden || now.matches(":focus-within, :has(details[open])")) return;
    const answer = await fetch("/now").catch(() => null);
    const text = answer?.ok ? await answer.text() : "";
    if (text && text !== now.dataset.shown) now.innerHTML = now.dataset.shown = text;
  }
  if (now) setInterval(renew, 2000);

  if (!window.gateway) return; // the gateway's helper did not load: the forms still work
  for (const button of document.querySelectorAll("[data-popup]")) button.hidden = false;
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.dataset.provider) return;
    event.preventDefault();
    connect(form, event.submitter !== null && "popup" in event.submitter.dataset);
  });
})();
