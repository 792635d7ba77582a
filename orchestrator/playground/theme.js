// Light, dark or as the system has it. A classic script in the head: it runs before anything is painted.
(() => {
  const KEY = "tandem-theme";
  const NAMES = ["auto", "light", "dark"];
  const root = document.documentElement;

  function stored() {
    try {
      const name = localStorage.getItem(KEY);
      return NAMES.includes(name) ? name : "auto";
    } catch {
      return "auto"; // storage may be forbidden; the choice then lasts as long as the page
    }
  }

  function apply(name) {
    if (name === "auto") root.removeAttribute("data-theme");
    else root.setAttribute("data-theme", name);
    const button = document.getElementById("theme");
    if (button) button.textContent = `Theme: ${name}`;
    dispatchEvent(new Event("themechange"));
  }

  let current = stored();
  apply(current);
  addEventListener("DOMContentLoaded", () => {
    apply(current);
    document.getElementById("theme").addEventListener("click", () => {
      current = NAMES[(NAMES.indexOf(current) + 1) % NAMES.length];
      try {
        localStorage.setItem(KEY, current);
      } catch {
        // see above
      }
      apply(current);
    });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => dispatchEvent(new Event("themechange")));
})();
