// The API key that requests carry, where the service asks for one: in this page's memory, and in the tab's session
// storage only where that was asked for. It is never in the page's address.

const NAME = "tandem-api-key";

let key = stored()?.getItem(NAME) ?? "";

export function headers() {
  return key ? { authorization: `Bearer ${key}` } : {};
}

/** keep: until the tab is closed, over reloads too. */
export function setKey(value, { keep }) {
  key = value;
  if (keep && key) stored()?.setItem(NAME, key);
  else stored()?.removeItem(NAME);
}

/** null where the browser allows no storage. */
function stored() {
  try {
    return sessionStorage;
  } catch {
    return null;
  }
}
