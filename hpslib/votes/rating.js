// The page's side of hpslib.votes.rating. An answer is put into the browser's storage, shown, sent, and dropped when
// the kernel has it. A session holds these answers for all views of one widget; what is asked follows from what the
// kernel says and what waits for it. Text is only ever set as text; images are blobs that are released after use.
//
// Messages. Each answer of a person has a `key`, by which the kernel knows it again, and the time `at`.
//
//   page -> kernel   vote    key, at, id (of the group), shown (place, from 0), order (on the page), seconds (in sight)
//                    skip    key, at, id, order
//                    undo    key, at, id (of the group, where the page knows it), vote (key of what is taken back)
//   kernel -> page   answer  key, ok; where ok is false also text (why) and keep (whether to send it again)
//   traits           current, upcoming  the groups now and next, {} at the end: id, prompt, order, images, trouble
//                    done, total        groups answered, and all
//                    recent             keys of the last answers that count, the newest last
//                    size, store        width of an image in pixels; where the browser keeps what waits
//                    most               images in the largest group of the study

const RESEND_MS = 4000; // doubled with every try
const LONGEST_MS = 60000;
const CELL_PX = 12; // padding and border of a choice, as in rating.css
const GAP_PX = 10; // between choices

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

// JupyterLab and Notebook 7 would take our keys for their own. They look for this mark on what has the focus first, and
// some of their shortcuts no further.
function ownKeys(...nodes) {
  for (const node of nodes) node.dataset.lmSuppressShortcuts = "true";
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
  let askedGroup = {}; // the group on the page, which stays while its vote and the undo of it are under way
  let adopted = false;
  let resends = 0;
  let timer = null;
  let notice = "";
  let noticeOfDelay = false; // whether `notice` says that answers wait

  // One item of the storage for each answer, so that two pages never overwrite what the other keeps.
  function withStorage(action) {
    try {
      action(localStorage);
    } catch {
      // a private window has no storage: the answers are then kept as long as the page is
    }
  }

  // What is kept under a name, null where it is damaged; one such item must not hold back the others.
  function keptAnswer(storage, name) {
    try {
      const item = JSON.parse(storage.getItem(name));
      const sound = ["vote", "skip", "undo"].includes(item.type) && name === prefix + item.key;
      return sound && Number.isFinite(item.at) ? item : null;
    } catch {
      return null;
    }
  }

  function adopt() {
    adopted = true;
    withStorage((storage) => {
      const names = Object.keys(storage).filter((name) => name.startsWith(prefix));
      const items = names.map((name) => keptAnswer(storage, name));
      waiting = items.filter((item) => item !== null).sort((one, other) => one.at - other.at);
      const damaged = items.length - waiting.length;
      if (damaged) notice = `${damaged} answer(s) kept in this browser are damaged and left out: please answer again.`;
    });
    deliver();
  }

  function deliver() {
    clearTimeout(timer);
    if (!waiting.length) return;
    timer = setTimeout(resend, Math.min(RESEND_MS * 2 ** resends, LONGEST_MS));
    try {
      model.send(waiting[0]);
    } catch {
      // the kernel is gone, and the timer tries again
    }
  }

  function resend() {
    resends += 1;
    const text = `Not saved yet: ${waiting.length} answer(s) are kept here and sent again. Is the kernel running?`;
    if (!noticeOfDelay) [notice, noticeOfDelay] = [text, true]; // once, or a screen reader would say it with every try
    deliver();
    changed();
  }

  function onAnswer(message) {
    if (!waiting.some((item) => item.key === message.key)) return; // another page's, or answered before
    if (!message.ok) [notice, noticeOfDelay] = [`Not saved: ${message.text}`, Boolean(message.keep)];
    if (message.ok || !message.keep) {
      // with a vote that is refused goes its undo, which has nothing to take back
      const dropped = waiting.filter((item) => item.key === message.key || (!message.ok && item.vote === message.key));
      waiting = waiting.filter((item) => !dropped.includes(item));
      withStorage((storage) => dropped.forEach((item) => storage.removeItem(prefix + item.key)));
      if (noticeOfDelay && !waiting.length) [notice, noticeOfDelay] = ["Saved.", false];
      resends = 0;
      deliver();
    }
    changed();
  }

  // What is asked, how much is answered and what Undo takes back, once the kernel has heard all that waits.
  function expectedState() {
    const keys = [...model.get("recent")];
    const groups = new Map(); // key of an answer that waits -> its group
    let done = model.get("done");
    let reopened = []; // groups taken back, the last one to be asked first
    for (const { type, key, id, vote } of waiting) {
      if (type === "undo") {
        if (keys.includes(vote)) done -= 1;
        keys.splice(0, keys.length, ...keys.filter((other) => other !== vote));
        reopened.push(id); // unknown where the kernel has the vote: then nothing is asked until it answers
        groups.delete(vote);
      } else {
        if (!keys.includes(key)) keys.push(key), (done += 1);
        groups.set(key, id);
        reopened = reopened.filter((group) => group !== id);
      }
    }
    const answeredGroups = [...groups.values()];
    const isNext = (id) => (reopened.length ? id === reopened.at(-1) : !answeredGroups.includes(id));
    const candidates = [model.get("current"), model.get("upcoming"), ...(reopened.length ? [askedGroup] : [])];
    askedGroup = candidates.find((group) => group.id && isNext(group.id)) ?? {};
    const total = model.get("total");
    const last = keys.at(-1);
    const lastGroup = groups.get(last);
    return { group: askedGroup, done: Math.min(done, total), total, last, lastGroup, waits: waiting.length, notice };
  }

  function post(message, text) {
    const answer = { ...message, key: newKey(), at: Math.max(Date.now(), (waiting.at(-1)?.at ?? 0) + 1) };
    waiting.push(answer);
    withStorage((storage) => storage.setItem(prefix + answer.key, JSON.stringify(answer)));
    const { done, total } = expectedState();
    [notice, noticeOfDelay] = [`${text}, ${done} of ${total}.`, false];
    if (waiting.length === 1) deliver();
    changed();
  }

  const changed = () => views.forEach((draw) => draw());
  traits.forEach((name) => model.on(name, changed));
  model.on("msg:custom", onAnswer);
  return {
    expectedState,
    post,
    listen(draw) {
      views.add(draw);
      if (!adopted) adopt(); // not before it is seen: an old widget in the kernel has nothing to send
      return () => views.delete(draw);
    },
    close() {
      clearTimeout(timer);
      traits.forEach((name) => model.off(name, changed));
      model.off("msg:custom", onAnswer);
    },
  };
}

// --- what is seen ---

function createView(model, session, el) {
  const root = element("div", "hpslib-rating");
  root.tabIndex = 0;
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "Choose the picture you like best");
  const top = element("div", "top");
  const prompt = element("p", "prompt tex2jax_ignore mathjax_ignore");
  prompt.dir = "auto";
  const progress = element("span", "progress");
  top.append(prompt, progress);
  const imageRow = element("div", "images");
  imageRow.style.setProperty("--size", `${model.get("size")}px`);
  const tools = element("div", "tools");
  const undo = element("button", "undo", "Undo (u)");
  const skip = element("button", "skip", "Skip (s)");
  const hint = element("span", "hint");
  undo.type = skip.type = "button";
  ownKeys(root, undo, skip);
  tools.append(undo, skip, hint);
  const live = element("p", "live");
  live.setAttribute("role", "status");
  live.setAttribute("aria-live", "polite");
  root.append(top, imageRow, tools, live);
  el.append(root);

  const prepared = new Map(); // group id -> its images, decoded ahead
  let shownGroup = {}; // the group on the page
  let pressedAt = null; // when the answer before was given
  const focused = () => root.getRootNode().activeElement; // the page's own, if we are in a shadow tree

  // --- how long the images were in sight: not before they are decoded, not in another tab, not scrolled away ---

  let msInSight = 0;
  let inSightSince = null;
  let inSight = false;

  function updateTimeInSight() {
    const now = performance.now();
    if (inSightSince !== null) msInSight += now - inSightSince;
    inSightSince = imageRow.childElementCount && inSight && !document.hidden ? now : null;
  }

  const sightObserver = new IntersectionObserver((entries) => {
    inSight = entries.at(-1).isIntersecting;
    updateTimeInSight();
  });
  sightObserver.observe(imageRow);
  document.addEventListener("visibilitychange", updateTimeInSight);

  // --- images ---

  // One layout for all groups of a study, whatever their sizes: where the pictures of the largest group fit side by
  // side, in as few rows of up to four as they can, each as full as the others; elsewhere two by two.
  function lay(width) {
    const most = model.get("most");
    const across = Math.ceil(most / Math.ceil(most / 4));
    const fits = across * (model.get("size") + CELL_PX) + (across - 1) * GAP_PX <= width;
    imageRow.style.setProperty("--columns", fits ? across : Math.min(across, 2));
  }

  const widthObserver = new ResizeObserver((entries) => lay(entries.at(-1).contentRect.width));
  widthObserver.observe(imageRow);

  function prepare(group) {
    if (!group.id || prepared.has(group.id)) return;
    const imageNodes = group.images.map((bytes, k) => {
      const image = new Image();
      image.alt = `image ${k + 1} of ${group.images.length} for: ${group.prompt}`;
      image.width = model.get("size");
      image.draggable = false;
      image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < image.width));
      image.src = URL.createObjectURL(new Blob([bytes]));
      return image;
    });
    prepared.set(group.id, { imageNodes, decoded: Promise.allSettled(imageNodes.map((image) => image.decode())) });
  }

  function release(keep) {
    for (const [id, { imageNodes }] of prepared) {
      if (keep.includes(id)) continue;
      imageNodes.forEach((image) => URL.revokeObjectURL(image.src));
      prepared.delete(id);
    }
  }

  function show(group) {
    shownGroup = group;
    [msInSight, inSightSince] = [0, null];
    prompt.textContent = group.prompt ?? "";
    imageRow.replaceChildren();
    if (group.trouble) imageRow.append(element("p", "trouble", group.trouble));
    prepare(group);
    prepared.get(group.id)?.decoded.then(() => shownGroup === group && fill());
  }

  function fill() {
    (prepared.get(shownGroup.id)?.imageNodes ?? []).forEach((image, k) => {
      const button = element("button", "choice");
      button.type = "button";
      ownKeys(button);
      button.append(image, element("span", "key", String(k + 1)));
      button.addEventListener("click", () => vote(k));
      imageRow.append(button);
    });
    updateTimeInSight();
    if (pressedAt === null) return;
    const began = pressedAt;
    pressedAt = null;
    requestAnimationFrame(() => requestAnimationFrame(() => {
      root.dataset.swapMs = (performance.now() - began).toFixed(1);
    }));
  }

  const setText = (node, text) => node.textContent !== text && (node.textContent = text); // or it is read out again

  function draw() {
    const { group, done, total, last, waits, notice } = session.expectedState();
    const inside = root.contains(focused());
    if (group.id !== shownGroup.id) show(group);
    const [current, upcoming] = [model.get("current"), model.get("upcoming")];
    prepare(upcoming);
    release([shownGroup.id, current.id, upcoming.id]);
    undo.disabled = last === undefined;
    skip.disabled = !shownGroup.id;
    const finished = !waits && done === total;
    setText(progress, finished ? `${total} of ${total}, done` : `${Math.min(total, done + 1)} of ${total}`);
    if (finished) setText(hint, "All groups are answered. Thank you.");
    else setText(hint, shownGroup.id ? "Click a picture or press its number." : "One moment ...");
    setText(live, notice);
    if (inside && (!root.contains(focused()) || focused().disabled)) root.focus({ preventScroll: true });
  }

  // --- answers ---

  function vote(k) {
    if (!imageRow.querySelectorAll(".choice")[k]) return; // not before the images are there
    updateTimeInSight();
    pressedAt = performance.now();
    const message = { type: "vote", id: shownGroup.id, shown: k, order: shownGroup.order, seconds: msInSight / 1000 };
    session.post(message, `Image ${k + 1} chosen`);
  }

  function skipGroup() {
    if (shownGroup.id) session.post({ type: "skip", id: shownGroup.id, order: shownGroup.order }, "Skipped");
  }

  function takeBack() {
    const { last, lastGroup } = session.expectedState();
    if (last !== undefined) session.post({ type: "undo", vote: last, id: lastGroup }, "The last answer is taken back");
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toLowerCase();
    const number = /^[1-9]$/.test(key) ? key : /^Digit([1-9])$/.exec(event.code)?.[1]; // French keyboards: & for 1
    const step = { arrowright: 1, arrowdown: 1, arrowleft: -1, arrowup: -1 }[key];
    const act = number ? () => vote(number - 1) : { u: takeBack, backspace: takeBack, s: skipGroup }[key];
    const buttons = [...imageRow.querySelectorAll(".choice")];
    const at = buttons.indexOf(focused());
    if (step) buttons.at((at + step + (at < 0 && step < 0 ? 1 : 0)) % buttons.length)?.focus();
    else if (act && !event.repeat) act();
    else if (!act && !(event.repeat && ["enter", " "].includes(key))) return; // these press the focused button, once
    event.preventDefault();
    event.stopPropagation();
  }

  root.addEventListener("keydown", onKey);
  // the second half of a double click would fall on a group that nobody has looked at
  root.addEventListener("click", (event) => event.detail > 1 && event.stopPropagation(), true);
  undo.addEventListener("click", takeBack);
  skip.addEventListener("click", skipGroup);
  const stopListening = session.listen(draw);
  draw();
  return () => {
    stopListening();
    shownGroup = {};
    release([]);
    sightObserver.disconnect();
    widthObserver.disconnect();
    document.removeEventListener("visibilitychange", updateTimeInSight);
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
