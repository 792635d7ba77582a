// What is said to those who do not see the page. What changes many times a second is left out.

const place = document.getElementById("spoken");

export function say(text) {
  place.textContent = text;
}
