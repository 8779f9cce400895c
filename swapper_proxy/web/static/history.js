// Whether the proxy keeps a history.

export function recorded(config) {
  const history = config?.history;
  if (!history || history === "off") return false;
  return history.enabled !== false;
}
