"use strict";
// What htmx leaves to the page: telling that the live stream is cut, looking by itself meanwhile, leaving alone what
// a person is reading with the pointer, and telling that a replay is of a text that was changed since.

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

  // A look or a trial that brought nothing: what is on the screen is old, and must not be taken for what is.
  const answers = "#live, #result, #replayed";
  const stale = (why) => {
    const said = document.getElementById("stale");
    if (said.hidden) {
      said.textContent = said.dataset[why].replace("{time}", seen.toLocaleTimeString(document.documentElement.lang));
    }
    said.hidden = false;
    for (const old of document.querySelectorAll(answers)) old.classList.add("stale");
  };
  let seen = new Date();
  const mine = (event) => event.detail.target?.matches(answers);
  // a trial's fault is told in its place
  document.addEventListener("htmx:responseError", (event) => event.detail.target === live() && stale("database"));
  for (const name of ["htmx:sendError", "htmx:timeout"]) {
    document.addEventListener(name, (event) => mine(event) && stale("listener"));
  }
  document.addEventListener("htmx:afterOnLoad", (event) => {
    if (!mine(event) || (live() && event.detail.xhr.status !== 200)) return;
    seen = new Date();
    for (const old of document.querySelectorAll(answers)) old.classList.remove("stale");
    document.getElementById("stale").hidden = true;
  });

  setInterval(() => {
    const old = document.getElementById("stale");
    if (live() && !document.hidden && (!open || (old && !old.hidden))) htmx.trigger(live(), "look");
  }, FALLBACK_MS);

  const selecting = (within) => {
    const selection = document.getSelection();
    return selection && !selection.isCollapsed && within.contains(selection.anchorNode);
  };

  // What a person has scrolled to stays under their eyes, however many rows come above it.
  let eyes = null;
  const below = (element) => element.getBoundingClientRect().top;

  let missed = false;
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.target !== live()) {
      if (mine(event)) event.detail.shouldSwap = true;
      return;
    }
    if (selecting(live())) {
      event.detail.shouldSwap = false;
      missed = true;
      return;
    }
    const element = scrollY > 0 && [...live().querySelectorAll("[id]")].find((one) => below(one) >= 0);
    eyes = element ? { id: element.id, at: below(element) } : null;
  });
  document.addEventListener("htmx:afterSwap", (event) => {
    const element = event.detail.target === live() && eyes && document.getElementById(eyes.id);
    if (element) scrollBy(0, below(element) - eyes.at);
  });
  // A replay goes by the text and the condition as they were when it began.
  const edited = () => [...document.querySelectorAll(".play :is([name=text], [name=when])")].map((e) => e.value).join("\0");
  let replayed = null;
  const compare = () => {
    const said = document.getElementById("outdated");
    if (said) said.hidden = replayed === null || replayed === edited();
  };
  document.addEventListener("input", compare);
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (!event.detail.requestConfig.path.endsWith("/replay")) return;
    replayed = edited();
    compare();
  });

  document.addEventListener("selectionchange", () => {
    if (missed && live() && !selecting(live())) {
      missed = false;
      htmx.trigger(live(), "look");
    }
  });
})();
