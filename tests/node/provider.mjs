// A certified OpenID provider (npm: oidc-provider), as strangers run it: discovery, PKCE, RS256 id_tokens, rotation, RFC 9207.
// usage: node provider.mjs <port> <redirect_uri>; prints "ready" when it listens; every log-in name is an account.
import { Provider } from "oidc-provider";

const [port, redirectUri] = process.argv.slice(2);
const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [
    {
      client_id: "gateway",
      client_secret: "a secret/with:reserved+characters",
      redirect_uris: [redirectUri],
      grant_types: ["authorization_code", "refresh_token"],
      response_types: ["code"],
      token_endpoint_auth_method: "client_secret_basic",
    },
  ],
  pkce: { required: () => true },
  scopes: ["openid", "offline_access", "email"],
  claims: { openid: ["sub"], email: ["email"] },
  findAccount: (_, id) => ({ accountId: id, claims: async () => ({ sub: id, email: `${id}@provider.example` }) }),
  features: { revocation: { enabled: true } },
  cookies: { keys: ["not a secret: only tests run this"] },
});
provider.listen(Number(port), "127.0.0.1", () => console.log("ready"));
