// The small box beside a token, a round or a candidate that says what is known of it. It follows the pointer or the
// keyboard; screen readers hear what it says.

const box = document.getElementById("details");
let shownAt = 0;

/** anchor: a DOMRect. content: { title, source?, rows: [name, value][] }. */
export function showDetails(anchor, { title, source, rows }) {
  const heading = document.createElement("p");
  heading.className = source ? "token" : "";
  if (source) heading.dataset.source = source;
  heading.textContent = title;
  const list = document.createElement("dl");
  for (const [name, value] of rows) list.append(term("dt", name), term("dd", value));
  box.replaceChildren(heading, list);
  box.hidden = false;
  shownAt = performance.now();
  place(anchor);
}

export function hideDetails() {
  box.hidden = true;
}

export function detailsShown() {
  return !box.hidden;
}

function term(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}

function place(anchor) {
  const { width, height } = box.getBoundingClientRect();
  const left = Math.min(anchor.left, document.documentElement.clientWidth - width - 8);
  const below = anchor.bottom + 6;
  const fits = below + height < innerHeight;
  box.style.left = `${Math.max(8, left)}px`;
  box.style.top = `${fits ? below : Math.max(8, anchor.top - height - 6)}px`;
}

// Scrolling takes away what the box stands beside; but walking through tokens scrolls too, to bring the next in sight.
const hideStale = () => performance.now() - shownAt > 150 && hideDetails();
addEventListener("scroll", hideStale, { passive: true, capture: true });
