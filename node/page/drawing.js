// What all parts of the page draw with: elements, attributes, lists of elements by key, and the colours of the terms.
//
// Text of others is only ever set as textContent.

// White text on each has a contrast of 4.5:1 or more.
const TERM_COLOURS = ["#1f5fbf", "#a8430f", "#14713b", "#8a2f86", "#775900", "#b0214b", "#0b6b7a", "#565c66"];
const SVG = "http://www.w3.org/2000/svg";

export const get = (id) => document.getElementById(id);
export const calm = matchMedia("(prefers-reduced-motion: reduce)");
export const colourOf = (term) => TERM_COLOURS[term % TERM_COLOURS.length];

export function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function attributes(element, values) {
  for (const [name, value] of Object.entries(values)) {
    const text = String(value);
    if (element.getAttribute(name) !== text) element.setAttribute(name, text);
  }
  return element;
}

export function svg(name, values = {}) {
  return attributes(document.createElementNS(SVG, name), values);
}

export function html(name, values = {}, ...children) {
  const element = attributes(document.createElement(name), values);
  element.append(...children);
  return element;
}

// Makes the children of `parent` those of `items`, in their order; keeps the element of a key, and with it the focus.
export function sync(parent, items, keyOf, make, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let element = known.get(key);
    known.delete(key);
    if (!element) {
      element = make(item);
      element.dataset.key = key;
    }
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
    update(element, item);
  }
  for (const gone of known.values()) gone.remove();
}
