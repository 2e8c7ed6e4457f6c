import { HighLevel, SessionStorage } from "@gohighlevel/api-client";

const { GATEWAY, KEY, AGENCY } = process.env;
const v1 = async (path) => {
  const response = await fetch(`${GATEWAY}/v1/connections${path}`, { headers: { Authorization: `Bearer ${KEY}` } });
  return response.ok ? response.json() : null;
};

class GatewayStorage extends SessionStorage {
  async getAccessToken(id) {
    const own = (await v1(`?provider=ghl&status=active&account_id=${id}`))?.items[0];
    return (await v1(own ? `/${own.id}/token` : `/${AGENCY}/token?location=${id}`))?.access_token ?? null;
  }
  async getSession(id) { const token = await this.getAccessToken(id); return token && { access_token: token }; }
  async getRefreshToken() { return null; }
  async setSession() {} async deleteSession() {} async createCollection() {} async getCollection() {}
  setClientId() {} async init() {} async disconnect() {}
}

export const highlevel = new HighLevel({ clientId: "-", clientSecret: "-", sessionStorage: new GatewayStorage() });
