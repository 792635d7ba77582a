// Inputs and what was wrong with them, said beside each.

let counter = 0;

/** A labelled input of `kind`: text, select or checkbox. Returns { element, input }. */
export function makeField(label, { kind = "text", placeholder = "", inputmode = "text" } = {}) {
  const element = document.createElement("div");
  element.className = kind === "checkbox" ? "field flag" : "field";
  const input = document.createElement(kind === "select" ? "select" : "input");
  input.id = `field-${(counter += 1)}`;
  if (kind !== "select") input.type = kind;
  if (kind === "text") Object.assign(input, { placeholder, inputMode: inputmode, spellcheck: false });
  const name = document.createElement("label");
  name.htmlFor = input.id;
  name.textContent = label;
  element.append(...(kind === "checkbox" ? [input, name] : [name, input]));
  return { element, input };
}

/** Says beside `input` what is wrong with it, until it is changed. */
export function refuse(input, message) {
  forgive(input);
  const note = document.createElement("p");
  note.className = "refusal";
  note.id = `${input.id}-refusal`;
  note.textContent = message;
  input.closest(".field").append(note);
  input.setAttribute("aria-invalid", "true");
  input.setAttribute("aria-describedby", note.id);
  input.addEventListener("input", () => forgive(input), { once: true });
}

export function forgive(input) {
  document.getElementById(`${input.id}-refusal`)?.remove();
  input.removeAttribute("aria-invalid");
  input.removeAttribute("aria-describedby");
}

/** What a typed number cannot be sent as, or null. Ranges are the service's to judge. */
export function typedProblem(typed, kind) {
  if (kind === "flag" || !typed) return null;
  if (kind === "integer") return /^-?\d+$/.test(typed) ? null : "must be a whole number";
  return /^-?(\d+\.?\d*|\.\d+)(e-?\d+)?$/i.test(typed) ? null : "must be a number";
}

/** The message of an error without the path that it starts with: the field itself is in sight. */
export function withoutPath(message, path) {
  return message.startsWith(`${path}: `) ? message.slice(path.length + 2) : message;
}
