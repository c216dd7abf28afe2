// Everything works without this file except highlights and sliders.
"use strict";

// Boxes and relations light up while the pointer or the focus is on what names them.
for (const view of document.querySelectorAll("[data-view]")) {
  const overlay = view.querySelector(".overlay");
  if (!overlay) continue;
  const boxes = new Map([...overlay.querySelectorAll("[data-box]")].map((one) => [one.dataset.box, one]));
  const naming = [...view.querySelectorAll("[data-boxes]")];
  let pressed = null;

  const show = (source) => {
    for (const one of view.querySelectorAll(".lit")) one.classList.remove("lit");
    const names = source ? source.dataset.boxes.split(" ").filter(Boolean) : [];
    overlay.classList.toggle("lighting", names.length > 0);
    for (const name of names) boxes.get(name)?.classList.add("lit");
    const link = source?.dataset.links;
    if (link) for (const one of overlay.querySelectorAll(`[data-link="${link}"]`)) one.classList.add("lit");
  };
  const rest = () => show(pressed || (view.contains(document.activeElement) ? document.activeElement.closest("[data-boxes]") : null));

  for (const one of naming) {
    one.addEventListener("pointerenter", () => show(one));
    one.addEventListener("pointerleave", rest);
    one.addEventListener("focus", () => show(one));
    one.addEventListener("blur", () => show(pressed));
    one.addEventListener("click", () => {  // a pressed one keeps its boxes lit
      const now = pressed === one ? null : one;
      for (const other of naming) other.setAttribute("aria-pressed", String(other === now));
      pressed = now;
      show(now || one);
    });
    if (one.tagName !== "BUTTON") one.addEventListener("keydown", (event) => {  // a word of a drawing
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); one.dispatchEvent(new Event("click")); }
    });
  }
  for (const [name, box] of boxes) {
    const own = naming.find((one) => one.tagName === "BUTTON" && one.dataset.boxes === name && !one.dataset.links);
    box.addEventListener("pointerenter", () => { if (own) { show(own); own.classList.add("lit"); } });
    box.addEventListener("pointerleave", rest);
    box.addEventListener("click", () => own?.click());
  }

  // Sliders hide what has a lower score.
  for (const slider of view.querySelectorAll("[data-slider]")) {
    const kind = slider.dataset.slider;
    const apply = () => {
      const least = Number(slider.value);
      slider.parentElement.querySelector("output").textContent = least.toFixed(2);
      const items = [...view.querySelectorAll(`[data-item="${kind}"]`)];
      for (const one of items) one.hidden = Number(one.dataset.score) < least;
      for (const one of overlay.querySelectorAll(kind === "box" ? ".box" : ".arrow"))
        one.classList.toggle("off", Number(one.dataset.score) < least);
      const count = view.querySelector(`[data-count="${kind}"]`);
      const left = items.filter((one) => !one.hidden).length;
      count.textContent = left || !items.length ? `${left} of ${items.length}` : `none of ${items.length} has this score`;
    };
    slider.addEventListener("input", apply);
    slider.addEventListener("change", () => {
      const url = new URL(location);
      url.searchParams.set(slider.name, slider.value);
      history.replaceState(null, "", url);
    });
    apply();
  }
  view.querySelector("[data-arrows]")?.addEventListener("change", (event) =>
    overlay.classList.toggle("arrows", event.target.checked));
}

// The form of the grid: what is chosen from a list takes effect at once, empty fields stay out
// of the URL.
const form = document.querySelector("[data-filters]");
if (form) {
  form.addEventListener("submit", () => {
    for (const one of form.elements) {
      const given = one.dataset.default;
      const idle = given === undefined ? one.value === "" : Number(one.value) === Number(given);
      const run = one.name === "run" && form.elements.text.value === "";
      if (one.name && (idle || run)) one.disabled = true;
    }
  });
  for (const one of form.querySelectorAll("[data-now]")) {
    one.addEventListener("change", () => form.requestSubmit());
    if (one.type === "range")
      one.addEventListener("input", () => { one.parentElement.querySelector("output").textContent = Number(one.value).toFixed(2); });
  }
  addEventListener("pageshow", () => { for (const one of form.elements) one.disabled = false; });
  if (matchMedia("(max-width: 900px)").matches) form.closest("details").open = false;
}

// Keys: arrows go to the neighbours of an image, "/" to the first field of the grid.
addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, select, textarea, .scroll")) return;
  const link = document.querySelector(`[data-key="${event.key}"]`);
  if (link) location.href = link.href;
  if (event.key === "/" && form) { event.preventDefault(); form.closest("details").open = true; form.elements.find.focus(); }
});
