/**
 * gateway.js: lets a signed-in user of your product connect an account, and returns the result.
 *
 *     <script src="https://connect.example/gateway.js"></script>
 *     const { connection } = await gateway.connect("ghl", { accessToken, popup: true });   // in a click handler
 *     gateway.onConnected(({ connection, provider }) => …);                                // also after a redirect
 *
 * Its types are at /gateway.d.ts. It keeps nothing and knows no provider. The access token travels in the body of a form post
 * and in an Authorization header, never in an address. By pop-up, call it straight from the click, or the browser blocks the window.
 */
(() => {
  "use strict";

  /**
   * @typedef {{connection: string, provider: string, missing_scope?: string}} Connected  ids, and the required scopes that were not granted
   * @typedef {{id: string, provider: string, status: string, updated_at: string}} Listed  as in GET /v1/connections
   *
   * @typedef {(connected: Connected) => void} Listener
   *
   * @typedef {object} Options
   * @property {string | (() => string | Promise<string>)} accessToken  the Supabase access token, or how to get it
   * @property {string} [returnTo]  where to return to, on one of GATEWAY_APP_ORIGINS; by default this page without its
   *                                query and fragment, which may hold secrets
   * @property {boolean} [popup]    in a new window; rejects with `blocked` if the browser blocks it
   * @property {Listener} [onConnected]  called before the promise resolves
   * @property {() => Promise<Listed[]>} [fetchConnections]  another way than /v1 to list the user's connections
   */

  const script = /** @type {HTMLScriptElement | null} */ (document.currentScript);
  if (!script) throw new Error("gateway.js has to be loaded by a <script src> element, so that it knows its origin.");
  const origin = new URL(script.src).origin;
  const PATIENCE_MS = 20 * 60 * 1000; // an attempt is valid for ten minutes, a question about its account for ten more

  /** @type {Set<Listener>} */
  const listeners = new Set();

  /**
   * An Error whose `slug` is one of the gateway's (`access_denied` …), `closed` for a window that was closed or a user who came
   * back, or `blocked` for a window that the browser did not open.
   */
  const refusal = (/** @type {string} */ slug) =>
    Object.assign(new Error(`The connection was not made: ${slug}`), { name: "GatewayError", slug });

  /**
   * Hands the user over: a form post that ends on the connect page, in the window called `target`.
   *
   * @param {string} provider @param {string} token @param {Record<string, string>} query @param {string} target
   */
  function handOver(provider, token, query, target) {
    const next = `/connect/${encodeURIComponent(provider)}?${new URLSearchParams(query)}`;
    const form = document.createElement("form");
    Object.assign(form, { method: "post", action: `${origin}/session`, target, hidden: true });
    for (const [name, value] of Object.entries({ access_token: token, next })) {
      form.append(Object.assign(document.createElement("input"), { type: "hidden", name, value }));
    }
    document.body.append(form);
    form.submit();
    form.remove();
  }

  /** @param {string} provider @param {string} token @returns {Promise<Listed[]>} */
  async function listed(provider, token) {
    const answer = await fetch(`${origin}/v1/connections?provider=${encodeURIComponent(provider)}`, {
      headers: { Authorization: `Bearer ${token}` },
      credentials: "omit",
      cache: "no-store",
    });
    if (!answer.ok) throw new Error(`GET /v1/connections answered ${answer.status}`);
    return (await answer.json()).items;
  }

  /**
   * The gateway's message from that window, and from no other.
   *
   * @param {Window} view @param {string} provider @param {AbortSignal} over @returns {Promise<Connected>}
   */
  function message(view, provider, over) {
    return new Promise((resolve, reject) => {
      const hear = (/** @type {MessageEvent} */ event) => {
        if (event.origin !== origin || event.source !== view || event.data?.source !== "oauth-gateway") return;
        if (event.data.error || !event.data.connection) reject(refusal(event.data.error || "unexpected"));
        else {
          const { connection, provider: named, missing_scope } = event.data;
          resolve({ connection, provider: named || provider, ...(missing_scope && { missing_scope }) });
        }
      };
      window.addEventListener("message", hear, { signal: over });
    });
  }

  /**
   * The result of a window that closed without a message, or that looks closed because a page in it dropped its opener.
   * In the second case the user still works there and this page has no focus, so we keep asking. New connections are
   * found by comparison with the list from before, so that the clocks of browser and server need not agree.
   *
   * @param {Window} view @param {() => Promise<Listed[]>} ask @param {AbortSignal} over @returns {Promise<Connected>}
   */
  async function aftermath(view, ask, over) {
    const mark = (/** @type {Listed} */ item) => `${item.id} ${item.updated_at}`;
    const end = Date.now() + PATIENCE_MS;
    const before = await ask().then((items) => new Set(items.map(mark)), () => null);
    for (let misses = 0; misses < 3 && Date.now() < end && !over.aborted; ) {
      await new Promise((resolve) => setTimeout(resolve, view.closed ? 1000 : 250));
      if (over.aborted || !view.closed) continue;
      const items = before ? await ask().catch(() => /** @type {Listed[]} */ ([])) : [];
      const found = items.find((item) => item.status === "active" && !before?.has(mark(item)));
      if (found) return { connection: found.id, provider: found.provider };
      if (!before || document.hasFocus()) misses += 1;
    }
    throw refusal("closed");
  }

  /**
   * Rejects when this page is shown again after a redirect: the user came back by the Back button.
   *
   * @param {AbortSignal} over @returns {Promise<never>}
   */
  const cameBack = (over) =>
    new Promise((_, reject) => {
      const shown = (/** @type {PageTransitionEvent} */ event) => event.persisted && reject(refusal("closed"));
      window.addEventListener("pageshow", shown, { signal: over });
      setTimeout(() => reject(refusal("closed")), PATIENCE_MS);
    });

  /**
   * Resolves once the account is connected; rejects with an Error that has a `slug`. A redirect leaves this page: `returnTo`
   * gets `connection` and `provider`, or `error`, in its query, and `onConnected` there hears of it.
   *
   * @param {string} provider an id of GET /v1/providers
   * @param {Options} options
   * @returns {Promise<Connected>}
   */
  async function connect(provider, options) {
    const { accessToken, returnTo = location.origin + location.pathname, popup = false, fetchConnections } = options;
    const target = `gateway-${provider}-${Date.now()}`;
    const view = popup ? window.open("", target, "popup,width=540,height=760") : null; // before any await: see above
    const token = async () => (typeof accessToken === "function" ? accessToken() : accessToken);
    const over = new AbortController();
    try {
      if (popup && !view) throw refusal("blocked");
      const first = await token();
      if (!view) {
        handOver(provider, first, { return_to: returnTo }, "_top");
        return await cameBack(over.signal);
      }
      if (view.closed) throw refusal("closed");
      const heard = message(view, provider, over.signal);
      const ask = fetchConnections ?? (async () => listed(provider, await token()));
      const ours = async () => (await ask()).filter((item) => item.provider === provider);
      const ended = aftermath(view, ours, over.signal);
      handOver(provider, first, { display: "popup", return_to: returnTo }, target);
      const connected = await Promise.race([heard, ended]);
      for (const listener of [options.onConnected, ...listeners]) listener?.(connected);
      return connected;
    } catch (error) {
      if (!(error instanceof Error && "slug" in error)) view?.close(); // no token: nothing will ever load in it
      throw error;
    } finally {
      over.abort();
    }
  }

  /** The result in this page's address, after a redirect. It comes from the address: your server checks what it means. */
  const query = new URLSearchParams(location.search);
  const returned = { connection: query.get("connection") ?? "", provider: query.get("provider") ?? "" };

  /**
   * Calls `listener` for each connection that is made: by a pop-up of this page, and at once after a redirect back to it.
   *
   * @param {Listener} listener @returns {() => void} stops it
   */
  function onConnected(listener) {
    listeners.add(listener);
    if (returned.connection && returned.provider) queueMicrotask(() => listeners.has(listener) && listener({ ...returned }));
    return () => void listeners.delete(listener);
  }

  Object.assign(window, { gateway: Object.freeze({ connect, onConnected }) });
})();
