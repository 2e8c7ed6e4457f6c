/// <reference path="./gateway.d.ts" />
// A button that connects an account. The page has <script src="https://connect.example.com/gateway.js"></script>.

import { useCallback, useEffect, useRef, useState } from "react";
import { createRoot } from "react-dom/client";

type State = { kind: "idle" } | { kind: "busy" } | { kind: "connected"; connection: string } | { kind: "failed"; slug: string };

export function useConnect(provider: string, accessToken: () => Promise<string>) {
  const [state, setState] = useState<State>({ kind: "idle" });
  const token = useRef(accessToken);
  token.current = accessToken;

  useEffect(
    () =>
      window.gateway.onConnected((connected) => {
        if (connected.provider === provider) setState({ kind: "connected", connection: connected.connection });
      }),
    [provider],
  );

  const connect = useCallback(async () => {
    setState({ kind: "busy" });
    try {
      await window.gateway.connect(provider, { accessToken: () => token.current(), popup: true });
    } catch (error) {
      setState({ kind: "failed", slug: error instanceof Error && "slug" in error ? String(error.slug) : "unexpected" });
    }
  }, [provider]);

  return { state, connect };
}

export function ConnectButton({ provider, name, accessToken }: { provider: string; name: string; accessToken: () => Promise<string> }) {
  const { state, connect } = useConnect(provider, accessToken);
  return (
    <>
      <button type="button" disabled={state.kind === "busy"} onClick={connect}>
        Connect {name}
      </button>
      <p role="status">
        {state.kind === "connected" && `${provider} is connected: ${state.connection}`}
        {state.kind === "failed" && `Not connected: ${state.slug}`}
      </p>
    </>
  );
}

const accessToken = async () => (await fetch("/my/access-token")).text();
const root = document.getElementById("root");
if (root) createRoot(root).render(<ConnectButton provider="google" name="Gmail" accessToken={accessToken} />);
