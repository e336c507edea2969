// As much of a page as the panels need to be made: elements that take what they are given, and observers.

class Element {
  constructor() {
    Object.assign(this, { style: {}, dataset: {}, children: [], clientWidth: 0, clientHeight: 0, listeners: {} });
  }

  setAttribute() {}

  append(...children) {
    this.children.push(...children);
  }

  replaceChildren(...children) {
    this.children = children;
  }

  addEventListener(type, listener) {
    this.listeners[type] = listener;
  }

  querySelector() {
    return null;
  }
}

class Observer {
  observe() {}
  disconnect() {}
}

export function fakePage() {
  const document = { createElement: () => new Element(), documentElement: new Element(), body: new Element() };
  Object.assign(globalThis, { document, ResizeObserver: Observer, MutationObserver: Observer });
  globalThis.requestAnimationFrame = (work) => setImmediate(work);
}
