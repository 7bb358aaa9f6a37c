export * from "./Badge.tsx";
export * from "./Card.tsx";
export * from "./Dialog.tsx";
export * from "./Percent.tsx";
export * from "./Table.tsx";
export * from "./Tabs.tsx";
export * from "./states.tsx";
export * as format from "./format.ts";
