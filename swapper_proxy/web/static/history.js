// Whether the proxy keeps a history.

export const recorded = (store) => !store.historyOff && (store.config?.history?.path ?? null) !== null;

// An answer may tell that there is none in spite of the configuration: its file could not be read.
export const isOff = (error) => error.code === "history_off";
