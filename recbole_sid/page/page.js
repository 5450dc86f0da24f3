"use strict";

// A set of SIDs: {label, items, base, levels, rows, codes}; codes lie row by row, `levels` a row.
// Nothing here makes markup from text: all of it goes through textContent.

function code(set, row, level) {
  return set.codes[row * set.levels + level];
}

function sid(set, row) {
  return set.codes.slice(row * set.levels, (row + 1) * set.levels).join("-");
}

function itemOf(set, row) {
  return set.rows === null ? row : set.rows[row];
}

// Prepared once a set: its rows in the order of their codes, and the place of each item there.
function sorted(set) {
  if (set.order) return set;
  const n = set.codes.length / set.levels;
  set.order = Array.from({ length: n }, (_, row) => row).sort((a, b) => {
    for (let level = 0; level < set.levels; level++) {
      const less = code(set, a, level) - code(set, b, level);
      if (less) return less;
    }
    return a - b;
  });
  set.place = new Map(set.order.map((row, place) => [itemOf(set, row), place]));
  return set;
}

// The prefixes one code longer than `depth` among order[from … to).
function children(set, from, to, depth) {
  const found = [];
  for (let place = from; place < to; place++) {
    const next = code(set, set.order[place], depth);
    const last = found[found.length - 1];
    if (last && last.code === next) last.to = place + 1;
    else found.push({ code: next, from: place, to: place + 1 });
  }
  return found;
}

function sharedLength(set, a, b) {
  let length = 0;
  while (length < set.base && code(set, a, length) === code(set, b, length)) length++;
  return length;
}

// The items that share the longest prefix with `item`, a dedup digit left out.
function neighbours(set, item) {
  const place = sorted(set).place.get(item);
  if (place === undefined) return null;
  const row = set.order[place];
  const around = [place - 1, place + 1].filter((at) => at >= 0 && at < set.order.length);
  const shared = Math.max(0, ...around.map((at) => sharedLength(set, row, set.order[at])));
  const items = [];
  if (shared > 0) {
    let from = place;
    while (from > 0 && sharedLength(set, row, set.order[from - 1]) >= shared) from--;
    for (let at = from; at < set.order.length; at++) {
      if (sharedLength(set, row, set.order[at]) < shared) break;
      if (at !== place) items.push(itemOf(set, set.order[at]));
    }
  }
  return { row, shared, items };
}

// Items whose id or title holds all the words of `text`.
function search(items, text, limit) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const found = [];
  let total = 0;
  if (!words.length) return { found, total };
  for (let item = 0; item < items.tokens.length; item++) {
    const title = items.titles === null ? "" : items.titles[item];
    const line = (items.tokens[item] + " " + title).toLowerCase();
    if (words.every((word) => line.includes(word)) && total++ < limit) found.push(item);
  }
  return { found, total };
}

// The category that most of the items have, as far as its last two names, and their share.
function commonCategory(items, members) {
  if (items.category === null) return "";
  const counts = new Map();
  for (const item of members) {
    const category = items.category[item];
    counts.set(category, (counts.get(category) || 0) + 1);
  }
  const [best, count] = [...counts].reduce((a, b) => (b[1] > a[1] ? b : a));
  const name = items.categories[best].split(" > ").slice(-2).join(" > ");
  return name && `${name} ${Math.round((100 * count) / members.length)} %`;
}

// The address of an item's image, or null.
function imageSource(items, item) {
  const number = items.image === null ? -1 : items.image[item];
  return number < 0 ? null : "data:image/jpeg;base64," + items.images[number];
}

// -1, 0 or 1 for two cells; cells without a value come last in both directions.
function compareCells(a, b, numeric, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (numeric ? a - b : a < b ? -1 : Number(a > b));
}

function start(document) {
  const data = JSON.parse(document.getElementById("data").textContent);
  document.querySelectorAll("table.sortable").forEach(makeSortable);
  if (data.sids.length) browse(data);

  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function makeSortable(table) {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      heading.querySelector("button").addEventListener("click", () => {
        const numeric = heading.classList.contains("number");
        const first = numeric ? "descending" : "ascending";
        const second = numeric ? "ascending" : "descending";
        const order = heading.getAttribute("aria-sort") === first ? second : first;
        headings.forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const value = (row) => {
          const text = row.cells[column].getAttribute("data-value");
          return text === null ? null : numeric ? Number(text) : text;
        };
        const body = table.tBodies[0];
        [...body.rows]
          .sort((a, b) => compareCells(value(a), value(b), numeric, sign))
          .forEach((row) => body.append(row));
      });
    });
  }

  function browse(data) {
    const [choice, input, results, panel, tree] = ["set", "search", "found", "item", "tree"].map(
      (id) => document.getElementById(id)
    );
    const chosen = () => sorted(data.sids[Number(choice.value)]);
    let shown = null;

    // A list that grows by `step` lines at a click.
    function grow(parent, count, step, line) {
      let next = 0;
      const more = element("button", "more");
      more.type = "button";
      const add = () => {
        for (const end = Math.min(count, next + step); next < end; next++) {
          parent.insertBefore(line(next), more.parentNode === parent ? more : null);
        }
        more.textContent = `${(count - next).toLocaleString("en")} more`;
        if (next < count) parent.append(more);
        else more.remove();
      };
      more.addEventListener("click", add);
      add();
    }

    // The item's image, with its title as the text for those who do not see it.
    function addImage(parent, items, item) {
      const source = imageSource(items, item);
      if (source === null) return;
      const image = element("img", "thumbnail");
      image.alt = (items.titles !== null && items.titles[item]) || items.tokens[item];
      image.src = source;
      parent.append(image);
    }

    function itemLine(set, item) {
      const items = data.items[set.items];
      const line = element("li");
      addImage(line, items, item);
      const text = element("div");
      line.append(text);
      const title = items.titles === null ? "" : items.titles[item];
      const button = element("button", "link", title || items.tokens[item]);
      button.type = "button";
      button.addEventListener("click", () => show(item));
      text.append(button);
      const about = element("div", "small soft");
      const place = set.place.get(item);
      if (place !== undefined) about.append(element("span", "code", sid(set, set.order[place])));
      about.append(" · " + items.tokens[item]);
      const category = items.category === null ? "" : items.categories[items.category[item]];
      if (category) about.append(" · " + category);
      text.append(about);
      return line;
    }

    function itemList(set, found) {
      const list = element("ul", "items");
      grow(list, found.length, 30, (n) => itemLine(set, found[n]));
      return list;
    }

    function node(set, part, depth, prefix) {
      const members = set.order.slice(part.from, part.to).map((row) => itemOf(set, row));
      const details = element("details", "node");
      const summary = element("summary");
      const name = prefix.concat(part.code);
      summary.append(element("span", "code", name.join("-")));
      summary.append(` · ${members.length.toLocaleString("en")} items `);
      const category = commonCategory(data.items[set.items], members);
      summary.append(element("span", "small soft", category));
      details.append(summary);
      details.addEventListener("toggle", () => {
        if (!details.open || details.childElementCount > 1) return;
        if (depth + 1 >= set.base || members.length <= 8) details.append(itemList(set, members));
        else details.append(level(set, part.from, part.to, depth + 1, name));
      });
      return details;
    }

    function level(set, from, to, depth, prefix) {
      const parts = children(set, from, to, depth);
      const box = element("div");
      grow(box, parts.length, 50, (n) => {
        const part = parts[n];
        if (part.to - part.from > 1) return node(set, part, depth, prefix);
        const alone = element("ul", "items node");
        alone.append(itemLine(set, itemOf(set, set.order[part.from])));
        return alone;
      });
      return box;
    }

    function show(item) {
      shown = item;
      const set = chosen();
      const items = data.items[set.items];
      const title = items.titles === null ? "" : items.titles[item];
      panel.replaceChildren(element("h3", "", title || items.tokens[item]));
      addImage(panel, items, item);
      const category = items.category === null ? "" : items.categories[items.category[item]];
      panel.append(element("p", "small soft", [items.tokens[item], category].filter(Boolean).join(" · ")));
      for (const other of data.sids) {
        const place = other.items === set.items ? sorted(other).place.get(item) : undefined;
        if (place === undefined) continue;
        const line = element("p", "small");
        line.append(element("span", "code", sid(other, other.order[place])), " " + other.label);
        panel.append(line);
      }
      const near = neighbours(set, item);
      if (near === null) {
        panel.append(element("p", "soft", `${set.label} has no SID for it.`));
      } else if (near.shared === 0) {
        panel.append(element("p", "soft", "No other item begins with the same code."));
      } else {
        const codes = near.shared === 1 ? "code" : `${near.shared} codes`;
        const same = near.shared === set.base ? "all codes" : `the first ${codes}`;
        const count = near.items.length.toLocaleString("en");
        panel.append(element("p", "", `Nearest by ${set.label}: ${count} with ${same}`));
        panel.append(itemList(set, near.items));
      }
      panel.hidden = false;
      panel.scrollIntoView({ block: "nearest" });
    }

    function find() {
      const set = chosen();
      const items = data.items[set.items];
      const { found, total } = search(items, input.value, 50);
      results.replaceChildren();
      if (!input.value.trim()) return;
      const count = total.toLocaleString("en");
      const some = total > found.length ? `${count} items, the first ${found.length}` : `${count} items`;
      results.append(element("p", "small soft", total === 1 ? "1 item" : some));
      const list = element("ul", "items");
      for (const item of found) list.append(itemLine(set, item));
      results.append(list);
    }

    let before = null;
    function choose() {
      const set = chosen();
      tree.replaceChildren(level(set, 0, set.order.length, 0, []));
      if (before !== set.items) panel.hidden = true;
      else if (shown !== null && !panel.hidden) show(shown);
      before = set.items;
      find();
    }

    choice.addEventListener("change", choose);
    input.addEventListener("input", find);
    choose();
  }
}

if (typeof module === "object") {
  module.exports = { sorted, children, neighbours, search, commonCategory, imageSource, compareCells };
} else {
  start(document);
}
