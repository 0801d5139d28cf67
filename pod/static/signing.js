// Signs bodies in the browser by the rule of shared_auth/canonical.py. Knows no page: secret and time are arguments.

const utf8 = new TextEncoder();

// Return `body` with an `auth` of its own in each item: in those of a batch, else in itself.
// What has nothing that can be signed is left as it is: the service says what is wrong with it.
export async function signed(body, { secret, path, ts }) {
  if (!isObject(body)) return body;
  if (!Array.isArray(body.items)) return withAuth(body, { secret, path, ts });
  const items = await Promise.all(body.items.map((item) => withAuth(item, { secret, path, ts })));
  return { ...body, items };
}

async function withAuth(item, { secret, path, ts }) {
  const id = isObject(item) ? await payloadId(item) : null;
  if (id === null) return item;
  return { ...item, auth: { ts, sig: await hmac(secret, `POST|${path}|${id}|${ts}`) } };
}

async function payloadId({ image_url: url, image_b64: base64, text }) {
  if (typeof url === "string") return url;
  if (typeof text === "string") return sha256(utf8.encode(text));
  const bytes = typeof base64 === "string" ? decoded(base64) : null;
  return bytes && sha256(bytes);
}

function decoded(base64) {
  try {
    return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  } catch {
    return null;
  }
}

async function sha256(bytes) {
  return hex(await crypto.subtle.digest("SHA-256", bytes));
}

async function hmac(secret, message) {
  const rule = { name: "HMAC", hash: "SHA-256" };
  const key = await crypto.subtle.importKey("raw", utf8.encode(secret), rule, false, ["sign"]);
  return hex(await crypto.subtle.sign("HMAC", key, utf8.encode(message)));
}

function hex(buffer) {
  return Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
