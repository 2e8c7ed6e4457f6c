// Verifies deliveries as a partner does. argv: the secret. One JSON object {headers, body} a line; each answer is one line.

import { Webhook } from "standardwebhooks";
import { createInterface } from "node:readline";

const webhook = new Webhook(process.argv[2]);

for await (const line of createInterface({ input: process.stdin })) {
  const { headers, body } = JSON.parse(line);
  try {
    console.log(JSON.stringify({ type: webhook.verify(body, headers).type }));
  } catch (error) {
    console.log(JSON.stringify({ error: error.message }));
  }
}
