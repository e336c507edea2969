// Colours of what the panels draw; the rest is the page's theme. hierdiff.css has ACCENT as --hierdiff-accent.

// Okabe and Ito's colours, which colour-blind people can tell apart, as far as they show on light and dark
export const FAMILIES = ["#3b9fd8", "#e07b39", "#1fa67a", "#c977a3", "#d29a00", "#7a8fe0"];
export const [SPENT, THRESHOLD, SAVED] = FAMILIES;
export const ACCENT = "#ff9f1c"; // what is selected, and warnings
