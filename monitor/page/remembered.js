// A choice that outlives the page, where the browser allows it.

export function remembered(key, choices) {
  let current = choices[0];
  try {
    const stored = localStorage.getItem(key);
    if (choices.includes(stored)) current = stored;
  } catch {
    // Storage is blocked: the choice lives as long as the page.
  }
  return {
    get value() {
      return current;
    },
    set value(choice) {
      current = choice;
      try {
        localStorage.setItem(key, choice);
      } catch {
        // As above.
      }
    },
    next() {
      return choices[(choices.indexOf(current) + 1) % choices.length];
    },
  };
}
