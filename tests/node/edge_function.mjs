// Runs a documented Edge Function: argv: its source, the secret. Prints the port that it listens on.

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import * as standardwebhooks from "standardwebhooks";
import ts from "typescript";

const [source, secret] = process.argv.slice(2);
const options = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ES2022 };
const text = readFileSync(source, "utf8").replace(/^import (.*) from "npm:standardwebhooks@.*";$/m, "const $1 = globalThis.standardwebhooks;");
globalThis.standardwebhooks = standardwebhooks;

let handle;
globalThis.Deno = { env: { get: () => secret }, serve: (handler) => (handle = handler) };
await import(`data:text/javascript,${encodeURIComponent(ts.transpileModule(text, { compilerOptions: options }).outputText)}`);

const server = createServer(async (incoming, outgoing) => {
  const pieces = [];
  for await (const piece of incoming) pieces.push(piece);
  const { method, headers, url } = incoming;
  const response = await handle(new Request(`http://localhost${url}`, { method, headers, body: Buffer.concat(pieces) }));
  outgoing.writeHead(response.status).end();
});
server.listen(0, "127.0.0.1", () => console.error(`port ${server.address().port}`));
