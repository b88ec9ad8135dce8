// The gallery's search and filter. They run here, so that they answer at once and without a kernel.
(() => {
  const root = [...document.querySelectorAll(".ge-gallery:not([data-ready])")].pop();
  if (!root) return;
  root.dataset.ready = "";
  // Voila hides the page until its widgets' scripts have come; this page has no widgets
  const [cells, spinner] = ["rendered_cells", "loading"].map((id) => document.getElementById(id));
  if (cells?.contains(root)) {
    cells.style.display = "";
    if (spinner) spinner.style.display = "none";
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
