// What widgets leave out for people who hear a page or use its keys: names of sliders, the main part, scrolling by keys.

const SCROLLED = ".ge-steps .widget-html-content, .ge-equation, .ge-code pre";

function name(handle) {
  const row = handle.closest(".widget-inline-hbox");
  const label = row?.querySelector(".widget-label")?.textContent.trim();
  if (label && handle.getAttribute("aria-label") !== label) handle.setAttribute("aria-label", label);
  const value = row?.querySelector(".widget-readout")?.textContent.trim();
  if (value && handle.getAttribute("aria-valuetext") !== value) handle.setAttribute("aria-valuetext", value);
}

function render({ el }) {
  el.style.display = "none";
  let asked = 0;
  const care = () => {
    asked = 0;
    const page = el.closest(".ge-page");
    if (!page) return;
    if (!document.querySelector("main")) page.setAttribute("role", "main");
    page.querySelectorAll(".noUi-handle").forEach(name);
    page.querySelectorAll(SCROLLED).forEach((part) => {
      if (part.scrollWidth > part.clientWidth || part.scrollHeight > part.clientHeight) part.tabIndex = 0;
    });
  };
  const ask = () => (asked ||= setTimeout(care, 300));
  const seen = new MutationObserver(ask);
  const start = setTimeout(() => {
    const page = el.closest(".ge-page");
    if (page) seen.observe(page, { childList: true, subtree: true, characterData: true });
    care();
  }, 300);
  return () => {
    seen.disconnect();
    clearTimeout(start);
    clearTimeout(asked);
  };
}

export default { render };
