// The gallery's search and filter. They run here, so that they answer at once and without a kernel.
(() => {
  /**
   * When Voila's scripts have come, a second or more after the page, they move it into a frame that scrolls by itself.
   * What is moved loses the focus and the place it was scrolled to: whoever searches by then is not to notice.
   */
  function stayPut(root, cells) {
    const home = cells.parentNode;
    let [focused, scrolled] = [null, 0];
    const scroll = () => (scrolled = document.scrollingElement.scrollTop);
    root.addEventListener("focusin", (event) => (focused = event.target));
    // a move is answered before the timer, and gives the focus back
    root.addEventListener("focusout", () => setTimeout(() => root.contains(document.activeElement) || (focused = null)));
    addEventListener("scroll", scroll);
    new MutationObserver((_, observer) => {
      if (cells.parentNode === home || !cells.isConnected) return;
      observer.disconnect();
      removeEventListener("scroll", scroll);
      new ResizeObserver((_, sized) => {
        if (cells.scrollHeight === cells.clientHeight) return; // the frame has no height of its own yet
        sized.disconnect();
        cells.scrollTop = scrolled;
      }).observe(cells);
      if (focused && !root.contains(document.activeElement)) focused.focus({ preventScroll: true });
    }).observe(document.body, { childList: true, subtree: true });
  }

  const root = [...document.querySelectorAll(".ge-gallery:not([data-ready])")].pop();
  if (!root) return;
  root.dataset.ready = "";
  // Voila hides the page until its widgets' scripts have come; this page has no widgets
  const [cells, spinner] = ["rendered_cells", "loading"].map((id) => document.getElementById(id));
  if (cells?.contains(root)) {
    cells.style.display = "";
    if (spinner) spinner.style.display = "none";
    stayPut(root, cells);
  }

  /** Lower case without accents, so that Muller finds Müller. */
  const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  const form = root.querySelector(".ge-find");
  const { q, family } = form.elements;
  const [status, none] = [root.querySelector(".ge-count"), root.querySelector(".ge-none")];
  const cards = [...root.querySelectorAll(".ge-card")].map((element) => ({
    element,
    family: element.dataset.family,
    text: plain(element.dataset.text),
  }));

  /** Formulas wider than their card scroll: only those can be reached by the keyboard. */
  const reachable = () => {
    for (const box of root.querySelectorAll(".ge-equation")) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };

  const show = () => {
    const words = plain(q.value).split(/\s+/).filter(Boolean);
    let count = 0;
    for (const card of cards) {
      const wanted = (!family.value || card.family === family.value) && words.every((word) => card.text.includes(word));
      card.element.hidden = !wanted;
      count += wanted;
    }
    none.hidden = count > 0;
    const things = cards.length === 1 ? "mechanism" : "mechanisms";
    status.textContent = count === cards.length ? `${count} ${things}` : `${count} of ${cards.length} ${things}`;
    reachable();
  };

  /** The link always says what is shown, so that it can be copied. */
  const remember = () => {
    const link = new URL(location.href);
    for (const field of [q, family]) {
      if (field.value.trim()) link.searchParams.set(field.name, field.value.trim());
      else link.searchParams.delete(field.name);
    }
    try {
      history.replaceState(history.state, "", link);
    } catch {
      // a browser that counts changes of the address refuses the hundredth: the page is right without it
    }
  };

  const changed = () => {
    show();
    remember();
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", changed);
  root.querySelector("[data-clear]").addEventListener("click", () => {
    [q.value, family.value] = ["", ""];
    changed();
    q.focus();
  });
  addEventListener("resize", reachable);
  show();
})();
