"use strict";
// Everything is readable without this: it adds the card of a candidate, the filter, sorting and copying.
(() => {
  const byId = (id) => document.getElementById(id);
  const source = byId("data");
  const data = source ? JSON.parse(source.textContent) : { rows: [] };
  const rows = new Map(data.rows.map((row) => [row.n, row]));
  const ROWS_AT_ONCE = 100;

  const make = (tag, words, css) => {
    const element = document.createElement(tag);
    if (words !== undefined) element.textContent = words;
    if (css) element.className = css;
    return element;
  };

  // Copying: the clipboard of a page opened from a file is not always to be had.
  const copy = async (text, button) => {
    let done = false;
    try {
      await navigator.clipboard.writeText(text);
      done = true;
    } catch {
      const area = make("textarea", text);
      document.body.append(area);
      area.select();
      done = document.execCommand("copy");
      area.remove();
    }
    const before = button.dataset.label || button.textContent;
    button.dataset.label = before;
    button.textContent = done ? "Copied" : "Select and copy by hand";
    setTimeout(() => { button.textContent = before; }, 1500);
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) copy(button.dataset.copy, button);
  });
  const copyButton = (text, label) => {
    const button = make("button", label, "copy");
    button.type = "button";
    button.dataset.copy = text;
    return button;
  };
  for (const button of document.querySelectorAll("button.copy[hidden]")) button.hidden = false;

  // The card: what is known of the candidate that is pointed at.
  const card = byId("card");
  const marks = new Map();
  for (const mark of document.querySelectorAll("[data-i]")) {
    const number = Number(mark.dataset.i);
    if (!marks.has(number)) marks.set(number, []);
    marks.get(number).push(mark);
  }
  let shown = null, pinned = null;
  const light = (number, on) => {
    for (const mark of marks.get(number) || []) mark.classList.toggle("lit", on);
    const line = document.querySelector(`#candidates tr[data-n="${number}"]`);
    if (line) line.classList.toggle("lit", on);
  };
  const show = (number) => {
    const row = rows.get(number);
    if (!row || !card || shown === number) return;
    if (shown !== null) light(shown, false);
    shown = number;
    light(number, true);
    card.replaceChildren(
      make("b", `trial ${row.n}`),
      make("span", `accuracy ${row.acc.toFixed(2)} ± ${row.err.toFixed(2)}%`),
      make("span", `${Number(row.ms.toPrecision(4))} ms, spread ${row.how}`),
      make("span", `reward ${row.r.toFixed(4)}`),
      make("span", `${row.par.toLocaleString("en")} parameters, ${(row.ma / 1e6).toFixed(2)}M mult-adds`),
      ...(row.warn || []).map((text) => make("span", text, "flag")),
      make("code", row.a),
      copyButton(row.a, "Copy the notation"),
    );
    card.hidden = false;
  };
  // The best one first, so that the picture does not move once a dot is pointed at.
  const star = document.querySelector(".star[data-i]");
  if (star) show(Number(star.dataset.i));
  const numberOf = (event) => {
    const mark = event.target.closest("[data-i], #candidates tr[data-n]");
    return mark ? Number(mark.dataset.i ?? mark.dataset.n) : null;
  };
  document.addEventListener("mouseover", (event) => {
    const number = numberOf(event);
    if (number !== null && pinned === null) show(number);
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest("button, input, a")) return;
    const number = numberOf(event);
    if (number === null) {
      if (!event.target.closest("#card")) pinned = null;
      return;
    }
    pinned = pinned === number ? null : number;
    show(number);
  });

  // The table: filter, sort, and as many rows as one looks at.
  const table = byId("candidates");
  if (!table) return;
  byId("tools").hidden = false;
  const body = table.tBodies[0];
  const order = { key: "reward", down: true };
  const fields = { trial: "n", accuracy: "acc", latency: "ms", reward: "r", mult_adds: "ma", architecture: "a" };
  let limit = ROWS_AT_ONCE;
  const words = () => byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const matches = (row, parts) => {
    if (byId("only-target").checked && row.ms > data.target_ms) return false;
    if (byId("only-front").checked && !row.f) return false;
    if (byId("only-sure").checked && (row.warn || row.how.includes("noisy"))) return false;
    for (let at = 0; at < parts.length; at++) {
      if (parts[at] === "trial" && at + 1 < parts.length) {
        at += 1;
        if (String(row.n) !== parts[at]) return false;
      } else if (!row.a.toLowerCase().includes(parts[at])) return false;
    }
    return true;
  };
  const cell = (line, text, number) => {
    const made = make("td", text, number ? "number" : "");
    line.append(made);
    return made;
  };
  const line = (row) => {
    const made = make("tr");
    made.dataset.n = row.n;
    if (row.n === shown) made.className = "lit";
    const first = cell(made, `${row.n}`, true);
    if (row.f) first.append(make("sup", " front"));
    cell(made, `${row.acc.toFixed(2)} ± ${row.err.toFixed(2)}%`, true);
    const time = cell(made, `${Number(row.ms.toPrecision(4))} ms`, true);
    if (row.warn || row.how.includes("noisy")) {
      const flag = make("sup", " !", "flag");
      flag.title = [row.how, ...(row.warn || [])].join("; ");
      time.append(flag);
    }
    cell(made, row.r.toFixed(4), true);
    cell(made, `${(row.ma / 1e6).toFixed(2)}M`, true);
    const last = cell(made, undefined, false);
    last.className = "notation";
    last.append(make("code", row.a), copyButton(row.a, "Copy"));
    return made;
  };
  const draw = () => {
    const parts = words();
    const kept = data.rows.filter((row) => matches(row, parts));
    const field = fields[order.key];
    kept.sort((one, other) => {
      const less = one[field] < other[field] ? -1 : one[field] > other[field] ? 1 : one.n - other.n;
      return order.down ? -less : less;
    });
    body.replaceChildren(...kept.slice(0, limit).map(line));
    byId("count").textContent = `${kept.length.toLocaleString("en")} of ${data.rows.length.toLocaleString("en")}`;
    const more = byId("more");
    if (more) {
      more.hidden = kept.length <= limit;
      more.replaceChildren(make("span", `The first ${limit} of ${kept.length.toLocaleString("en")}. `));
      const button = make("button", "Show more");
      button.type = "button";
      button.addEventListener("click", () => { limit += 4 * ROWS_AT_ONCE; draw(); });
      more.append(button);
    }
    const keep = new Set(kept.map((row) => row.n));
    for (const [number, all] of marks) {
      if (!rows.has(number)) continue;
      for (const mark of all) mark.classList.toggle("out", !keep.has(number));
    }
    for (const head of table.tHead.rows[0].cells) {
      const mine = head.dataset.key === order.key;
      head.setAttribute("aria-sort", mine ? (order.down ? "descending" : "ascending") : "none");
    }
  };
  for (const head of table.tHead.rows[0].cells) {
    const button = make("button", head.textContent, "sort");
    button.type = "button";
    button.addEventListener("click", () => {
      const key = head.dataset.key;
      order.down = order.key === key ? !order.down : key === "accuracy" || key === "reward";
      order.key = key;
      draw();
    });
    head.replaceChildren(button);
  }
  for (const id of ["filter", "only-target", "only-front", "only-sure"]) {
    byId(id).addEventListener("input", () => { limit = ROWS_AT_ONCE; draw(); });
  }
  if (!byId("more") && data.rows.length > ROWS_AT_ONCE) {
    const more = make("p", "", "note");
    more.id = "more";
    table.parentElement.after(more);
  }
  draw();
})();
