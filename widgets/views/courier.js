// The courier shows nothing: it saves files and copies text where Python asks it to, once a page.

/** The page's address with `query`, and with how the page looks now unless the query says otherwise.
 *
 * On a JupyterHub an address below `own` opens for its user alone; the same below `shared` for each who follows it. */
function linkOf(query, own, shared) {
  const [asked, now] = [new URLSearchParams(query), new URLSearchParams(location.search)];
  const kept = ["theme", "large"].filter((key) => now.has(key) && !asked.has(key));
  const all = [query.replace(/^\?/, ""), ...kept.map((key) => `${key}=${encodeURIComponent(now.get(key))}`)];
  const joined = all.filter(Boolean).join("&");
  const address = own && location.pathname.startsWith(own) ? shared + location.pathname.slice(own.length) : location.pathname;
  return (address.startsWith("/") ? location.origin : "") + address + (joined ? `?${joined}` : "");
}

/** Whether `text` is on the clipboard now; the second way is for pages that are not served by https. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const [area, before] = [make("textarea"), document.activeElement];
    area.value = text;
    area.setAttribute("aria-hidden", "true");
    area.style.cssText = "position:fixed;top:0;left:0;width:1px;height:1px;opacity:0";
    document.body.append(area);
    area.select();
    let copied = false;
    try {
      copied = document.execCommand("copy");
    } catch {
      // the browser forbids it: Python hears that nothing was copied
    }
    area.remove();
    before?.focus?.({ preventScroll: true });
    return copied;
  }
}

function initialize({ model }) {
  const heard = async (message, buffers) => {
    if (message.kind === "download") {
      saveBlob(new Blob([buffers[0]], { type: message.media_type }), bareName(message.name));
    } else if (message.kind === "copy") {
      const text = "query" in message ? linkOf(message.query, message.own, message.shared) : message.text;
      model.send({ kind: "copied", link: text, ok: await copy(text), request: message.request });
    }
  };
  model.on("msg:custom", heard);
  return () => model.off("msg:custom", heard);
}

/** A file name without folders, controls and the signs that Windows refuses. */
function bareName(name) {
  const bare = String(name).replace(/[\x00-\x1f<>:"/\\|?*\u202a-\u202e\u2066-\u2069]+/g, "-").replace(/^[.\s-]+|[.\s]+$/g, "");
  return bare.slice(0, 120) || "file";
}

function render({ el }) {
  el.style.display = "none";
}

export default { initialize, render };
