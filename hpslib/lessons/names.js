// Names and keys for the sliders of the box that this widget lies in. ipywidgets writes a label beside a slider, but its
// handle and its readout have no name of their own; and JupyterLab and Notebook 7 would take the arrow keys for theirs.

function nameSliders(box) {
  for (const slider of box.querySelectorAll(".widget-slider")) {
    const name = slider.querySelector(".widget-label")?.textContent;
    const handle = slider.querySelector(".noUi-handle, .ui-slider-handle"); // of ipywidgets 8, of 7
    const readout = slider.querySelector(".widget-readout");
    for (const node of [handle, readout]) node?.setAttribute("data-lm-suppress-shortcuts", "true");
    if (name && handle) handle.setAttribute("aria-label", name);
    if (name && readout) {
      readout.setAttribute("role", "textbox");
      readout.setAttribute("aria-label", `${name}, as a number`);
    }
  }
}

export default {
  render({ el }) {
    el.style.display = "none";
    let frame = 0;
    const watcher = new MutationObserver(() => nameSliders(el.closest(".widget-box") ?? el));
    function begin() {
      const box = el.parentElement?.closest(".widget-box");
      if (!box) return (frame = requestAnimationFrame(begin)); // not on the page yet
      nameSliders(box);
      watcher.observe(box, { childList: true, subtree: true }); // what is drawn later
    }
    begin();
    return () => {
      cancelAnimationFrame(frame);
      watcher.disconnect();
    };
  },
};
