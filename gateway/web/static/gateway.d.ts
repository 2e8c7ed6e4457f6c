/** Types of `gateway.js`. The gateway serves both; copy this file into your front end, or reference it. */

declare namespace GatewayClient {
  /** Slugs of the gateway's problems, and two of the browser. Others may be added. */
  type Slug =
    | "access_denied"
    | "blocked" // the browser did not open the pop-up
    | "bad_request"
    | "client_rejected"
    | "closed" // the pop-up was closed, or the user came back
    | "database_unavailable"
    | "forbidden" // this page's origin is not in GATEWAY_APP_ORIGINS
    | "frozen"
    | "not_found" // the provider is not enabled
    | "provider_garbled"
    | "provider_unavailable"
    | "rate_limited"
    | "return_to_refused"
    | "state_invalid"
    | "unauthenticated" // the access token is not valid
    | "unexpected"
    | "user_mismatch"
    | (string & {});

  interface Connected {
    /** The id of the connection: `provider_data.id`. */
    connection: string;
    /** The id of the provider: `google`, `ghl` … */
    provider: string;
  }

  /** What `connect` rejects with; an error of your `accessToken` function is passed on as it is. */
  interface GatewayError extends Error {
    name: "GatewayError";
    slug: Slug;
  }

  interface Listed {
    id: string;
    provider: string;
    status: string;
    updated_at: string;
  }

  interface Options {
    /** The signed-in user's Supabase access token, or a function that returns a fresh one. */
    accessToken: string | (() => string | Promise<string>);
    /** Where a redirect returns to, on one of GATEWAY_APP_ORIGINS. By default this page without query and fragment. */
    returnTo?: string;
    /** In a new window: call `connect` straight from the click. */
    popup?: boolean;
    /** Called before the promise resolves. */
    onConnected?: (connected: Connected) => void;
    /** Another way than `GET /v1/connections` to list the user's connections, after a pop-up that lost its opener. */
    fetchConnections?: () => Promise<Listed[]>;
  }

  interface Gateway {
    /** Resolves once the account is connected, and rejects with a GatewayError in every other case. */
    connect(provider: string, options: Options): Promise<Connected>;
    /** Calls `listener` for each new connection, also after a redirect back to this page. Returns a function that stops it. */
    onConnected(listener: (connected: Connected) => void): () => void;
  }
}

declare const gateway: GatewayClient.Gateway;

interface Window {
  gateway: GatewayClient.Gateway;
}
