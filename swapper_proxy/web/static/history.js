// Whether the proxy keeps a history.

export const recorded = (config) => (config?.history?.path ?? null) !== null;
