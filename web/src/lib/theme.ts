import { useSyncExternalStore } from "react";

export type ThemeChoice = "system" | "light" | "dark";

const light = matchMedia("(prefers-color-scheme: light)");
const listeners = new Set<() => void>();

function read(): ThemeChoice {
  try {
    const value = localStorage.getItem("nm.theme");
    return value === "light" || value === "dark" ? value : "system";
  } catch {
    return "system";
  }
}
let choice = read();

function apply(): void {
  document.documentElement.dataset.theme = choice === "system" ? (light.matches ? "light" : "dark") : choice;
  for (const listener of listeners) listener();
}
light.addEventListener("change", apply);

export function setTheme(next: ThemeChoice): void {
  choice = next;
  try {
    if (next === "system") localStorage.removeItem("nm.theme");
    else localStorage.setItem("nm.theme", next);
  } catch {
    // Without storage the choice lasts until the page is closed.
  }
  apply();
}

const subscribe = (listener: () => void) => {
  listeners.add(listener);
  return () => listeners.delete(listener);
};
export const useThemeChoice = (): ThemeChoice => useSyncExternalStore(subscribe, () => choice);
/** The theme in force. */
export const useTheme = (): "light" | "dark" =>
  useSyncExternalStore(subscribe, () => (document.documentElement.dataset.theme === "light" ? "light" : "dark"));
