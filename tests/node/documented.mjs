// The documented TypeScript, as a signed-in user's browser sends it. argv: project URL, publishable key, access token, user id.
// Commands come one a line as JSON on stdin; each answer goes out as one line.

import { createClient } from "@supabase/supabase-js";
import { createInterface } from "node:readline";

const [url, key, token] = process.argv.slice(2);
// Node before 22 has no WebSocket, which the client wants to have seen even where nothing listens.
const realtime = { transport: class {} };
const supabase = createClient(url, key, { accessToken: async () => token, realtime });

const verbs = {
  find: ({ user, type }) =>
    supabase
      .from("provider_data")
      .select("*")
      .eq("auth_provider_id", user)
      .eq("type", type)
      .single(),
  update: ({ id, change }) => supabase.from("provider_data").update(change).eq("id", id),
  updateShown: ({ id, change }) => supabase.from("provider_data").update(change).eq("id", id).select(),
  insert: ({ row }) => supabase.from("provider_data").insert(row),
  all: ({ table }) => supabase.from(table).select("*"),
  call: ({ name, given }) => supabase.rpc(name, given),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { verb, ...given } = JSON.parse(line);
  const { data, error, status } = await verbs[verb](given);
  console.log(JSON.stringify({ data, code: error?.code ?? null, status }));
}
