// HighLevel's SDK with the storage of docs/highlevel.md: prints the name of each location whose id it gets.
// node highlevel_sdk.mjs <module> <api> <location>…
import { pathToFileURL } from "node:url";
import { HighLevel } from "@gohighlevel/api-client";

const [module, api, ...locations] = process.argv.slice(2);
HighLevel.BASE_URL = api;
const { highlevel } = await import(pathToFileURL(module));
for (const locationId of locations) {
  const found = await highlevel.locations.getLocation({ locationId });
  console.log(found.location.name);
}
