// A description of elements, and the page made to match it with the fewest changes: what has the focus keeps it, what is
// unfolded stays so, and a screen reader does not lose its place each second. Text is always text, never HTML.

const SVG = "http://www.w3.org/2000/svg";

export const h = (tag, attributes, ...children) => ({ tag, attributes: attributes ?? {}, children: flat(children) });

export const s = (tag, attributes, ...children) => ({ ...h(tag, attributes, ...children), svg: true });

function flat(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false && child !== "");
}

export function patch(parent, ...children) {
  const wanted = flat(children);
  wanted.forEach((child, index) => {
    const present = parent.childNodes[index];
    if (typeof child !== "object") {
      const text = String(child);
      if (present?.nodeType !== Node.TEXT_NODE) parent.insertBefore(document.createTextNode(text), present ?? null);
      else if (present.data !== text) present.data = text;
      return;
    }
    let node = present;
    if (!isOf(node, child)) {
      node = [...parent.childNodes].slice(index).find((other) => isOf(other, child));
      node ??= child.svg ? document.createElementNS(SVG, child.tag) : document.createElement(child.tag);
      node.ofKey = child.attributes.key;
      parent.insertBefore(node, present ?? null);
    }
    update(node, child.attributes);
    patch(node, child.children);
  });
  while (parent.childNodes.length > wanted.length) parent.lastChild.remove();
}

function isOf(node, child) {
  return node?.nodeType === Node.ELEMENT_NODE && node.localName === child.tag && node.ofKey === child.attributes.key;
}

function update(node, attributes) {
  for (const name of node.getAttributeNames()) {
    if (!(name in attributes) && name !== "open") node.removeAttribute(name); // unfolded by who reads
  }
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "key" || value === undefined || value === null || value === false) continue;
    const text = value === true ? "" : String(value);
    if (node.getAttribute(name) !== text) node.setAttribute(name, text);
  }
}
