// Numbers and times as people read them.

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const count = (value) => whole.format(value);
export const compact = (value) => short.format(value);
export const rate = (value) => (value === null || value === undefined ? "–" : value.toFixed(value < 10 ? 1 : 0));
export const gigabytes = (value) => (value === null || value === undefined ? "–" : `${+value.toFixed(1)} GB`);
export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

// Seconds: 0.42 s, 7 s, 3 min 5 s, 2 h 10 min, 3 d 4 h.
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds < 1) return `${+seconds.toFixed(2)} s`;
  const total = Math.round(seconds);
  if (total < 60) return seconds < 10 ? `${+seconds.toFixed(1)} s` : `${total} s`;
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = units.findIndex(([size]) => total >= size);
  const [size, unit] = units[first];
  const [next, smaller] = units[first + 1];
  const rest = Math.floor((total % size) / next);
  return `${Math.floor(total / size)} ${unit}${rest ? ` ${rest} ${smaller}` : ""}`;
}

// Clocks take seconds since the epoch.
export const clock = (moment, seconds = true) =>
  new Date(moment * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", ...(seconds ? { second: "2-digit" } : {}) });
export const day = (moment) => new Date(moment * 1000).toLocaleDateString("en-GB", { day: "numeric", month: "short" });
export const epoch = (stamp) => (stamp ? Date.parse(stamp) / 1000 : null);
