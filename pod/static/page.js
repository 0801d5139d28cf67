// Swagger UI over this service's description. What is executed is signed with the secret in the page's one field.

import { signed } from "./signing.js";

const secret = document.getElementById("secret");
const note = document.getElementById("note");

const spec = await (await fetch("openapi.json")).json();

// Browsers have no crypto.subtle on a page that came over plain HTTP from another machine.
if (!globalThis.crypto.subtle) {
  secret.disabled = true;
  note.textContent = "A browser signs only on https or localhost: open this page there, or send a body signed elsewhere.";
}

SwaggerUIBundle({
  spec,
  dom_id: "#operations",
  deepLinking: true,
  tryItOutEnabled: true,
  defaultModelsExpandDepth: 0,
  // Its default asks another host to validate the description.
  validatorUrl: null,
  requestInterceptor: withSignature,
});

async function withSignature(request) {
  const { origin, pathname: path } = new URL(request.url, location.href);
  const operation = spec.paths[path]?.[request.method?.toLowerCase()];
  if (origin !== location.origin || !operation?.["x-signed"] || secret.value === "") return request;
  const body = parsed(request.body);
  const ts = Math.floor(Date.now() / 1000);
  if (body !== undefined) request.body = JSON.stringify(await signed(body, { secret: secret.value, path, ts }));
  return request;
}

// What is not JSON is sent as it is: the service says what is wrong with it.
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
