// What scrolls sideways can be scrolled with the keys: it takes the focus while it is too wide.
"use strict";
const reach = () => {
  for (const one of document.querySelectorAll(".md-typeset__scrollwrap, .drawing, .output"))
    if (one.scrollWidth > one.clientWidth) one.tabIndex = 0;
    else one.removeAttribute("tabindex");
};
new MutationObserver(reach).observe(document.body, {childList: true, subtree: true});
addEventListener("resize", reach);
reach();
