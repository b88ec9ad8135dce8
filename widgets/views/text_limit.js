// Boxes of ipywidgets send whatever is put into them; too much would end the page's connection. Here it is measured first.

const BOXES = ".ge-page :is(.widget-text, .widget-textarea) :is(input, textarea)";

function render({ model, el }) {
  el.style.display = "none";
  const kept = new WeakMap(); // what a box held when it was last short enough
  const alarms = new WeakMap();
  const off = new AbortController();

  const boxOf = (event) => (event.target instanceof Element && event.target.matches(BOXES) ? event.target : null);
  const warn = (box, sentence) => {
    let alarm = alarms.get(box);
    if (!alarm?.isConnected) {
      if (!sentence) return;
      alarm = document.createElement("div");
      alarm.className = "ge-limit-alert";
      alarm.setAttribute("role", "alert");
      alarms.set(box, alarm);
      box.closest(".widget-text, .widget-textarea").after(alarm);
    }
    alarm.textContent = sentence;
  };
  const refuse = (box, size) => {
    const [has, most] = [size, model.get("most")].map((n) => n.toLocaleString("en"));
    warn(box, `This would be ${has} characters; a box takes at most ${most}. Nothing was sent, and the box is as it was.`);
  };
  /** Refuses what is too long before the box has to lay it out. */
  const intercept = (event, text) => {
    const box = boxOf(event);
    if (!box || !text) return;
    const size = text.length + box.value.length - (box.selectionEnd - box.selectionStart);
    if (size <= model.get("most")) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    refuse(box, size);
  };
  /** What came in by another way: the box gets back what it held, so that it and the kernel agree. */
  const settle = (event) => {
    const box = boxOf(event);
    if (!box) return;
    const size = box.value.length;
    if (size > model.get("most")) {
      box.value = kept.get(box) ?? "";
      refuse(box, size);
    } else {
      if (event.type === "input") warn(box, "");
      kept.set(box, box.value);
    }
  };
  const on = (type, handler) => document.addEventListener(type, handler, { capture: true, signal: off.signal });
  on("paste", (event) => intercept(event, event.clipboardData?.getData("text/plain")));
  on("drop", (event) => intercept(event, event.dataTransfer?.getData("text/plain")));
  on("beforeinput", (event) => intercept(event, event.data));
  for (const type of ["focusin", "input", "change", "focusout"]) on(type, settle);
  return () => off.abort();
}

export default { render };
