// Asks for an API key where the service wants one.

import { headers, setKey } from "./key.js";

const form = document.getElementById("access");
const field = document.getElementById("api-key");
const keep = document.getElementById("keep-key");

/** why: what the service said of the key that it got. */
export function askForKey(why) {
  form.querySelector("p").textContent = headers().authorization ? why : "This service asks for an API key.";
  form.hidden = false;
  field.focus();
}

/** changed: called with a new key in force. */
export function watchKey(changed) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    setKey(field.value.trim(), { keep: keep.checked });
    field.value = "";
    form.hidden = true;
    changed();
  });
}
