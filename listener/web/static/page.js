"use strict";
// What htmx leaves to the page: telling that the live stream is cut, looking by itself meanwhile, and leaving alone what
// a person is reading with the pointer.

(() => {
  const FALLBACK_MS = 5000;
  let open = false;

  // What a person has opened stays open, and what they are filling in is not touched.
  Idiomorph.defaults.ignoreActiveValue = true;
  Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, element) =>
    !(name === "open" && element.tagName === "DETAILS");
  Idiomorph.defaults.callbacks.beforeNodeMorphed = (old) =>
    !(old.tagName === "DETAILS" && old.open && old.classList.contains("deed"));

  const live = () => document.getElementById("live");
  const note = () => document.getElementById("cut");

  document.addEventListener("htmx:sseOpen", () => {
    // whatever moved while the stream was cut is fetched now
    if (!open && note() && !note().hidden) htmx.trigger(live(), "look");
    open = true;
    if (note()) note().hidden = true;
  });

  document.addEventListener("htmx:sseError", () => {
    open = false;
    if (note()) note().hidden = false;
  });

  setInterval(() => {
    if (!open && live() && !document.hidden) htmx.trigger(live(), "look");
  }, FALLBACK_MS);

  const selecting = (within) => {
    const selection = document.getSelection();
    return selection && !selection.isCollapsed && within.contains(selection.anchorNode);
  };

  let missed = false;
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.target === live() && selecting(live())) {
      event.detail.shouldSwap = false;
      missed = true;
    }
  });
  document.addEventListener("selectionchange", () => {
    if (missed && live() && !selecting(live())) {
      missed = false;
      htmx.trigger(live(), "look");
    }
  });
})();
