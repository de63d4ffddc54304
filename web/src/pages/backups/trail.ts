/** The folders above a path and itself, from the root on. */
export function trail(path: string): [string, string][] {
  const parts = path.split("/").filter(Boolean);
  return [["/", "/"], ...parts.map((name, i): [string, string] => [name, `/${parts.slice(0, i + 1).join("/")}`])];
}
