// The page's side of hpslib.rating. Text is only ever set as text; pictures are blobs that are released after use.

const RESEND_MS = 4000;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // pages that are not served over https lack randomUUID
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function render({ model, el }) {
  const root = element("div", "hpslib-rating");
  root.tabIndex = 0;
  root.dataset.lmSuppressShortcuts = "true"; // or JupyterLab would take our keys for its own
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "Choose the picture you like best");
  const top = element("div", "top");
  const prompt = element("p", "prompt tex2jax_ignore mathjax_ignore");
  prompt.dir = "auto";
  const progress = element("span", "progress");
  top.append(prompt, progress);
  const images = element("div", "images");
  const tools = element("div", "tools");
  const undo = element("button", "undo", "Undo (u)");
  const skip = element("button", "skip", "Skip (s)");
  const hint = element("span", "hint", "Click a picture or press its number.");
  undo.type = skip.type = "button";
  tools.append(undo, skip, hint);
  const live = element("p", "live");
  live.setAttribute("role", "status");
  live.setAttribute("aria-live", "polite");
  root.append(top, images, tools, live);
  el.append(root);

  const ready = new Map(); // group id -> its pictures, decoded ahead
  let shown = {}; // the group on the page
  let since = performance.now();
  let undoWanted = false;
  const waiting = load(); // what the kernel has not answered, in order

  // --- pictures ---

  function prepare(group) {
    if (!group.id || ready.has(group.id)) return;
    const pictures = group.images.map((bytes, k) => {
      const picture = new Image();
      picture.alt = `image ${k + 1} of ${group.images.length} for: ${group.prompt}`;
      picture.width = model.get("size");
      picture.addEventListener("load", () => picture.classList.toggle("small", picture.naturalWidth < picture.width));
      picture.src = URL.createObjectURL(new Blob([bytes]));
      picture.decode().catch(() => {});
      return picture;
    });
    ready.set(group.id, pictures);
  }

  function release(keep) {
    for (const [id, pictures] of ready) {
      if (keep.includes(id)) continue;
      pictures.forEach((picture) => URL.revokeObjectURL(picture.src));
      ready.delete(id);
    }
  }

  function show(group, pressed) {
    const inside = root.contains(document.activeElement);
    shown = group;
    since = performance.now();
    prepare(group);
    prompt.textContent = group.prompt ?? "";
    images.replaceChildren();
    if (group.trouble) images.append(element("p", "trouble", group.trouble));
    (ready.get(group.id) ?? []).forEach((picture, k) => {
      const button = element("button", "choice");
      button.type = "button";
      button.append(picture, element("span", "key", String(k + 1)));
      button.addEventListener("click", () => vote(k));
      images.append(button);
    });
    skip.disabled = !group.id;
    count();
    if (inside) root.focus({ preventScroll: true });
    if (pressed !== undefined) {
      requestAnimationFrame(() => requestAnimationFrame(() => {
        root.dataset.swapMs = (performance.now() - pressed).toFixed(1);
      }));
    }
  }

  function count() {
    const [done, total] = [model.get("done"), model.get("total")];
    const ahead = waiting.filter((message) => message.type !== "undo").length;
    const answered = Math.min(total, done + ahead);
    undo.disabled = !model.get("last") && !waiting.length;
    const over = !shown.id && answered === total;
    progress.textContent = over ? `${total} of ${total}, done` : `${Math.min(total, answered + 1)} of ${total}`;
    if (over) hint.textContent = "All groups are answered. Thank you.";
    else hint.textContent = shown.id ? "Click a picture or press its number." : "One moment ...";
  }

  // --- votes: kept until they are answered ---

  function load() {
    try {
      return JSON.parse(localStorage.getItem(model.get("store")) ?? "[]");
    } catch {
      return [];
    }
  }

  function keep() {
    try {
      if (waiting.length) localStorage.setItem(model.get("store"), JSON.stringify(waiting));
      else localStorage.removeItem(model.get("store"));
    } catch {
      // a private window has no storage: the votes are then kept as long as the page is
    }
  }

  function send(message) {
    waiting.push(message);
    keep();
    deliver();
  }

  function deliver() {
    for (const message of waiting) {
      try {
        model.send(message);
      } catch {
        break;
      }
    }
  }

  const timer = setInterval(() => {
    if (!waiting.length || performance.now() - since < RESEND_MS) return;
    live.textContent = `Not saved yet: ${waiting.length} answer(s) are kept here and sent again. Is the kernel running?`;
    deliver();
  }, RESEND_MS);

  function next(pressed) {
    const upcoming = model.get("upcoming");
    const fresh = upcoming.id && upcoming.id !== shown.id && !waiting.some((message) => message.id === upcoming.id);
    show(fresh ? upcoming : {}, pressed);
  }

  function vote(k) {
    if (!shown.id || k >= shown.images.length) return;
    const pressed = performance.now();
    images.children[k].classList.add("chosen");
    live.textContent = `Image ${k + 1} chosen.`;
    const seconds = (pressed - since) / 1000;
    send({ type: "vote", key: newKey(), id: shown.id, shown: k, seconds });
    next(pressed);
  }

  function pass() {
    if (!shown.id) return;
    live.textContent = "Skipped.";
    send({ type: "skip", key: newKey(), id: shown.id });
    next(performance.now());
  }

  function back() {
    undoWanted = waiting.length > 0; // what is to be taken back has to be there first
    if (undoWanted || !model.get("last")) return;
    live.textContent = "The last answer is taken back.";
    send({ type: "undo", key: newKey(), vote: model.get("last") });
  }

  // --- what the kernel says ---

  function answered(message) {
    const place = waiting.findIndex((item) => item.key === message.key);
    if (message.ok) {
      if (place >= 0) waiting.splice(place, 1);
      if (!waiting.length && live.textContent.startsWith("Not saved")) live.textContent = "Saved.";
    } else {
      live.textContent = `Not saved: ${message.text}`;
      if (place >= 0 && !message.keep) waiting.splice(place, 1);
    }
    keep();
    update();
    if (undoWanted && !waiting.length) back();
  }

  function update() {
    const [current, upcoming] = [model.get("current"), model.get("upcoming")];
    const open = [current, upcoming].find((group) => group.id && !waiting.some((item) => item.id === group.id));
    if (!waiting.length || !shown.id) {
      if ((open?.id ?? null) !== (shown.id ?? null)) show(open ?? {});
    }
    if (upcoming.id) prepare(upcoming);
    release([shown.id, current.id, upcoming.id]);
    count();
  }

  // --- keys ---

  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const buttons = [...images.querySelectorAll(".choice")];
    const at = buttons.indexOf(document.activeElement);
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (/^[1-9]$/.test(event.key) && Number(event.key) <= buttons.length) vote(Number(event.key) - 1);
    else if (step && buttons.length) buttons[(at + step + (at < 0 && step < 0 ? 1 : 0) + buttons.length) % buttons.length].focus();
    else if (event.key === "u" || event.key === "Backspace") back();
    else if (event.key === "s") pass();
    else return; // Enter and Space press the focused button by themselves
    event.preventDefault();
    event.stopPropagation();
  });
  undo.addEventListener("click", back);
  skip.addEventListener("click", pass);

  model.on("change:current change:upcoming change:done change:last", update);
  model.on("msg:custom", answered);
  show(model.get("current"));
  update();
  if (waiting.length) deliver(); // answers of a page that was closed before the kernel spoke
  return () => {
    clearInterval(timer);
    release([]);
    model.off("change:current change:upcoming change:done change:last", update);
    model.off("msg:custom", answered);
  };
}

export default { render };
