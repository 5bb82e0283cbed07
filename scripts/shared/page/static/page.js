/* Makes the page easier to use. The page also works without it. */
"use strict";

/* A click on a button with data-copy puts the text of that element on the clipboard, over plain http too. */
function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "unseen";
  document.body.append(area);
  area.select();
  const isDone = document.execCommand("copy");
  area.remove();
  return isDone ? Promise.resolve() : Promise.reject(new Error("not copied"));
}

for (const button of document.querySelectorAll("button[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    copyText(document.getElementById(button.dataset.copy).textContent)
      .then(() => { button.textContent = "Copied"; }, () => { button.textContent = "Not copied: select it"; })
      .then(() => button.focus());
  });
}

/* Shows how many campaigns are selected, and selects all on the page at once. */
const chosen = document.querySelector("[data-chosen]");
if (chosen) {
  const boxes = [...document.querySelectorAll("input[name=id]")];
  const all = document.querySelector("[data-choose-all]");
  const tell = () => {
    const count = boxes.filter((box) => box.checked).length;
    chosen.textContent = count ? `the ${count} selected` : "the selected";
    all.checked = count === boxes.length;
    all.indeterminate = count > 0 && count < boxes.length;
  };
  all.closest("label").hidden = false;
  all.addEventListener("change", () => { boxes.forEach((box) => { box.checked = all.checked; }); tell(); });
  boxes.forEach((box) => box.addEventListener("change", tell));
  window.addEventListener("pageshow", tell);
  tell();
}

/* The counters: an unchanged answer is not swapped in, so that a screen reader does not read it out again. */
document.addEventListener("htmx:beforeSwap", (event) => {
  const etag = event.detail.xhr.getResponseHeader("ETag");
  const isSame = etag !== null && etag === event.target.dataset.etag;
  if (isSame) event.detail.shouldSwap = false;
  else if (etag !== null) event.target.dataset.etag = etag;
});

/* An open page says when its counters could not be read. */
const fault = document.getElementById("counters-fault");
document.addEventListener("htmx:afterRequest", (event) => {
  if (event.target.id !== "counters") return;
  const text = "These numbers are out of date: they cannot be read at the moment. The page tries again every 10 seconds.";
  fault.textContent = event.detail.successful ? "" : text;
});

const banner = document.querySelector("[data-banner]");
if (banner) banner.focus();
