// The photo is bright where the word under the pointer or the focus looks; a pressed one stays.
"use strict";

// as models.web.words.shade
const shade = (share) => {
  const level = Math.round(255 * (0.3 + 0.7 * share ** 1.5));
  return `rgb(${level},${level},${level})`;
};
for (const view of document.querySelectorAll("[data-words]")) {
  const regions = [...view.querySelectorAll("[data-region]")];
  const edges = [...view.querySelectorAll("[data-edge]")];
  const words = [...view.querySelectorAll("[data-shares]")];
  const pressed = () => words.find((one) => one.getAttribute("aria-pressed") === "true");
  const show = (word) => {
    if (!word) return;
    const shares = word.dataset.shares.trim().split(" ").map(Number);
    for (const one of regions) one.setAttribute("fill", shade(shares[Number(one.dataset.region)] || 0));
    for (const one of edges) one.setAttribute("stroke-opacity", (shares[Number(one.dataset.edge)] || 0) ** 2);
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

// A photo is handed in when it is dropped or chosen, with the progress in words.
for (const form of document.querySelectorAll("[data-drop]")) {
  const input = form.elements.photo;
  const said = form.querySelector("[data-said]");
  const send = () => {
    const file = input.files[0];
    if (!file) return;
    if (file.size > Number(form.dataset.most)) {
      said.textContent = `${file.name} has ${(file.size / 1048576).toFixed(1)} MB, which is too large.`;
      input.value = "";
      return;
    }
    form.requestSubmit();
  };
  input.addEventListener("change", send);
  form.addEventListener("dragover", (event) => { event.preventDefault(); form.classList.add("over"); });
  form.addEventListener("dragleave", () => form.classList.remove("over"));
  form.addEventListener("drop", (event) => {
    event.preventDefault();
    form.classList.remove("over");
    if (event.dataTransfer.files.length) { input.files = event.dataTransfer.files; send(); }
  });
  form.addEventListener("submit", () => {
    said.textContent = "Detecting objects and ranking captions. This takes some seconds.";
    form.querySelector("button").disabled = true;
  });
  addEventListener("pageshow", () => { form.querySelector("button").disabled = false; });
}
