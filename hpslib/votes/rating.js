// The page's side of hpslib.rating. An answer is put into the browser's storage, shown, sent, and dropped when the
// kernel has it. A session holds these answers for all views of one widget; what is asked follows from what the kernel
// says and what waits for it. Text is only ever set as text; pictures are blobs that are released after use.

const RESEND_MS = 4000; // doubled with every try
const LONGEST_MS = 60000;

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

// --- answers: kept until the kernel has answered ---

function createSession(model) {
  const prefix = `${model.get("store")}:`;
  const traits = ["change:current", "change:upcoming", "change:done", "change:recent"];
  const views = new Set();
  let waiting = []; // in order; only the first is under way, so that an undo cannot overtake its vote
  let asked = {}; // the group on the page, which stays while its vote and the undo of it are under way
  let adopted = false;
  let tries = 0;
  let timer = null;
  let told = "";
  let late = false; // whether `told` says that answers wait

  // One item of the storage for each answer, so that two pages never overwrite what the other keeps.
  function stored(action) {
    try {
      action(localStorage);
    } catch {
      // a private window has no storage: the answers are then kept as long as the page is
    }
  }

  function adopt() {
    adopted = true;
    stored((storage) => {
      const names = Object.keys(storage).filter((name) => name.startsWith(prefix));
      waiting = names.map((name) => JSON.parse(storage.getItem(name))).sort((one, other) => one.at - other.at);
    });
    deliver();
  }

  function deliver() {
    clearTimeout(timer);
    if (!waiting.length) return;
    timer = setTimeout(again, Math.min(RESEND_MS * 2 ** tries, LONGEST_MS));
    try {
      model.send(waiting[0]);
    } catch {
      // the kernel is gone, and the timer tries again
    }
  }

  function again() {
    tries += 1;
    const text = `Not saved yet: ${waiting.length} answer(s) are kept here and sent again. Is the kernel running?`;
    if (!late) [told, late] = [text, true]; // once, or a screen reader would say it with every try
    deliver();
    changed();
  }

  function answered(message) {
    if (!waiting.some((item) => item.key === message.key)) return; // another page's, or answered before
    if (!message.ok) [told, late] = [`Not saved: ${message.text}`, Boolean(message.keep)];
    if (message.ok || !message.keep) {
      // with a vote that is refused goes its undo, which has nothing to take back
      const gone = waiting.filter((item) => item.key === message.key || (!message.ok && item.vote === message.key));
      waiting = waiting.filter((item) => !gone.includes(item));
      stored((storage) => gone.forEach((item) => storage.removeItem(prefix + item.key)));
      if (late && !waiting.length) [told, late] = ["Saved.", false];
      tries = 0;
      deliver();
    }
    changed();
  }

  // What is asked, how much is answered and what Undo takes back, once the kernel has heard all that waits.
  function outlook() {
    const keys = [...model.get("recent")];
    const groups = new Map(); // key of an answer that waits -> its group
    let done = model.get("done");
    let back = []; // groups taken back, the last one to be asked first
    for (const { type, key, id, vote } of waiting) {
      if (type === "undo") {
        if (keys.includes(vote)) done -= 1;
        keys.splice(0, keys.length, ...keys.filter((other) => other !== vote));
        back.push(id); // unknown where the kernel has the vote: then nothing is asked until it answers
        groups.delete(vote);
      } else {
        if (!keys.includes(key)) keys.push(key), (done += 1);
        groups.set(key, id);
        back = back.filter((group) => group !== id);
      }
    }
    const taken = [...groups.values()];
    const wanted = (group) => group.id && (back.length ? group.id === back.at(-1) : !taken.includes(group.id));
    const known = [model.get("current"), model.get("upcoming"), ...(back.length ? [asked] : [])];
    asked = known.find(wanted) ?? {};
    const total = model.get("total");
    const last = keys.at(-1);
    const lastGroup = groups.get(last);
    return { group: asked, done: Math.min(done, total), total, last, lastGroup, waits: waiting.length, told };
  }

  function post(message, text) {
    const made = { ...message, key: newKey(), at: Math.max(Date.now(), (waiting.at(-1)?.at ?? 0) + 1) };
    waiting.push(made);
    stored((storage) => storage.setItem(prefix + made.key, JSON.stringify(made)));
    const { done, total } = outlook();
    [told, late] = [`${text}, ${done} of ${total}.`, false];
    if (waiting.length === 1) deliver();
    changed();
  }

  const changed = () => views.forEach((draw) => draw());
  traits.forEach((name) => model.on(name, changed));
  model.on("msg:custom", answered);
  return {
    outlook,
    post,
    listen(draw) {
      views.add(draw);
      if (!adopted) adopt(); // not before it is seen: an old widget in the kernel has nothing to send
      return () => views.delete(draw);
    },
    close() {
      clearTimeout(timer);
      traits.forEach((name) => model.off(name, changed));
      model.off("msg:custom", answered);
    },
  };
}

// --- what is seen ---

function createView(model, session, el) {
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
  const hint = element("span", "hint");
  undo.type = skip.type = "button";
  tools.append(undo, skip, hint);
  const live = element("p", "live");
  live.setAttribute("role", "status");
  live.setAttribute("aria-live", "polite");
  root.append(top, images, tools, live);
  el.append(root);

  const ready = new Map(); // group id -> its pictures, decoded ahead
  let shown = {}; // the group on the page
  let pressed = null; // when the answer before was given
  const active = () => root.getRootNode().activeElement; // the page's own, if we are in a shadow tree

  // --- how long the pictures were in sight: not before they are decoded, not in another tab, not scrolled away ---

  let seen = 0;
  let since = null;
  let inSight = false;

  function look() {
    const now = performance.now();
    if (since !== null) seen += now - since;
    since = images.childElementCount && inSight && !document.hidden ? now : null;
  }

  const sight = new IntersectionObserver((entries) => {
    inSight = entries.at(-1).isIntersecting;
    look();
  });
  sight.observe(images);
  document.addEventListener("visibilitychange", look);

  // --- pictures ---

  function prepare(group) {
    if (!group.id || ready.has(group.id)) return;
    const pictures = group.images.map((bytes, k) => {
      const picture = new Image();
      picture.alt = `image ${k + 1} of ${group.images.length} for: ${group.prompt}`;
      picture.width = model.get("size");
      picture.draggable = false;
      picture.addEventListener("load", () => picture.classList.toggle("small", picture.naturalWidth < picture.width));
      picture.src = URL.createObjectURL(new Blob([bytes]));
      return picture;
    });
    ready.set(group.id, { pictures, decoded: Promise.allSettled(pictures.map((picture) => picture.decode())) });
  }

  function release(keep) {
    for (const [id, { pictures }] of ready) {
      if (keep.includes(id)) continue;
      pictures.forEach((picture) => URL.revokeObjectURL(picture.src));
      ready.delete(id);
    }
  }

  function show(group) {
    shown = group;
    [seen, since] = [0, null];
    prompt.textContent = group.prompt ?? "";
    images.replaceChildren();
    if (group.trouble) images.append(element("p", "trouble", group.trouble));
    prepare(group);
    ready.get(group.id)?.decoded.then(() => shown === group && fill());
  }

  function fill() {
    (ready.get(shown.id)?.pictures ?? []).forEach((picture, k) => {
      const button = element("button", "choice");
      button.type = "button";
      button.append(picture, element("span", "key", String(k + 1)));
      button.addEventListener("click", () => vote(k));
      images.append(button);
    });
    look();
    if (pressed === null) return;
    const began = pressed;
    pressed = null;
    requestAnimationFrame(() => requestAnimationFrame(() => {
      root.dataset.swapMs = (performance.now() - began).toFixed(1);
    }));
  }

  const setText = (node, text) => node.textContent !== text && (node.textContent = text); // or it is read out again

  function draw() {
    const { group, done, total, last, waits, told } = session.outlook();
    const inside = root.contains(active());
    if (group.id !== shown.id) show(group);
    const [current, upcoming] = [model.get("current"), model.get("upcoming")];
    prepare(upcoming);
    release([shown.id, current.id, upcoming.id]);
    undo.disabled = last === undefined;
    skip.disabled = !shown.id;
    const over = !waits && done === total;
    setText(progress, over ? `${total} of ${total}, done` : `${Math.min(total, done + 1)} of ${total}`);
    if (over) setText(hint, "All groups are answered. Thank you.");
    else setText(hint, shown.id ? "Click a picture or press its number." : "One moment ...");
    setText(live, told);
    if (inside && (!root.contains(active()) || active().disabled)) root.focus({ preventScroll: true });
  }

  // --- answers ---

  function vote(k) {
    if (!images.querySelectorAll(".choice")[k]) return; // not before the pictures are there
    look();
    pressed = performance.now();
    const message = { type: "vote", id: shown.id, shown: k, order: shown.order, seconds: seen / 1000 };
    session.post(message, `Image ${k + 1} chosen`);
  }

  function pass() {
    if (shown.id) session.post({ type: "skip", id: shown.id, order: shown.order }, "Skipped");
  }

  function back() {
    const { last, lastGroup } = session.outlook();
    if (last !== undefined) session.post({ type: "undo", vote: last, id: lastGroup }, "The last answer is taken back");
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toLowerCase();
    const number = /^[1-9]$/.test(key) ? key : /^Digit([1-9])$/.exec(event.code)?.[1]; // French keyboards: & for 1
    const step = { arrowright: 1, arrowdown: 1, arrowleft: -1, arrowup: -1 }[key];
    const act = number ? () => vote(number - 1) : { u: back, backspace: back, s: pass }[key];
    const buttons = [...images.querySelectorAll(".choice")];
    const at = buttons.indexOf(active());
    if (step) buttons.at((at + step + (at < 0 && step < 0 ? 1 : 0)) % buttons.length)?.focus();
    else if (act && !event.repeat) act();
    else if (!act && !(event.repeat && ["enter", " "].includes(key))) return; // these press the focused button, once
    event.preventDefault();
    event.stopPropagation();
  }

  root.addEventListener("keydown", onKey);
  // the second half of a double click would fall on a group that nobody has looked at
  root.addEventListener("click", (event) => event.detail > 1 && event.stopPropagation(), true);
  undo.addEventListener("click", back);
  skip.addEventListener("click", pass);
  const leave = session.listen(draw);
  draw();
  return () => {
    leave();
    shown = {};
    release([]);
    sight.disconnect();
    document.removeEventListener("visibilitychange", look);
  };
}

export default () => {
  let session;
  return {
    initialize({ model }) {
      session = createSession(model);
      return () => session.close();
    },
    render({ model, el }) {
      return createView(model, session, el);
    },
  };
};
