// Elements from plain data. Texts go in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function filled(element, attributes, inner) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...inner.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

export const h = (tag, attributes = {}, ...inner) => filled(document.createElement(tag), attributes, inner);
export const s = (tag, attributes = {}, ...inner) => filled(document.createElementNS(SVG, tag), attributes, inner);

// Set only what differs: a screen reader reads, and a selection survives, what did not change.
export function text(element, value) {
  const wanted = String(value);
  if (element.textContent !== wanted) element.textContent = wanted;
}

export function attribute(element, name, value) {
  if (value === null || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

const children = new WeakMap(); // of a parent: its rows by key

// One child per item, made once and updated after; the focus stays where it is.
export function keyed(parent, items, key, create, update) {
  if (!children.has(parent)) children.set(parent, new Map());
  const rows = children.get(parent);
  const wanted = new Set(items.map(key));
  for (const [name, row] of rows) {
    if (!wanted.has(name)) {
      row.remove();
      rows.delete(name);
    }
  }
  items.forEach((item, index) => {
    const name = key(item);
    if (!rows.has(name)) rows.set(name, create(item));
    const row = rows.get(name);
    if (parent.children[index] !== row) parent.insertBefore(row, parent.children[index] ?? null);
    update(row, item);
  });
}

// For those who hear the page.
export function announce(message) {
  document.getElementById("announcer").textContent = message;
}

export function body(id) {
  return document.querySelector(`#${id} .body`);
}
