// Regions are shaded by the word under the pointer or the focus; a pressed one stays.
"use strict";

for (const view of document.querySelectorAll("[data-words]")) {
  const regions = [...view.querySelectorAll("[data-region]")];
  const words = [...view.querySelectorAll("[data-shares]")];
  const pressed = () => words.find((one) => one.getAttribute("aria-pressed") === "true");
  const show = (word) => {
    if (!word) return;
    const shares = word.dataset.shares.trim().split(" ").map(Number);
    for (const region of regions) {
      const share = shares[Number(region.dataset.region)] || 0;
      region.setAttribute("fill-opacity", 0.45 * share * share);
      region.setAttribute("stroke-opacity", share * share);
    }
  };
  for (const word of words) {
    word.addEventListener("pointerenter", () => show(word));
    word.addEventListener("pointerleave", () => show(pressed()));
    word.addEventListener("focus", () => show(word));
    word.addEventListener("blur", () => show(pressed()));
    word.addEventListener("click", () => {
      for (const other of words) other.setAttribute("aria-pressed", String(other === word));
      show(word);
    });
  }
}
