// The way from what is to what shall be, as the API takes it: a merge patch (RFC 7396).

type Json = Record<string, unknown>;

const isObject = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value);

function same(a: unknown, b: unknown): boolean {
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((x, i) => same(x, b[i]));
  if (isObject(a) && isObject(b)) {
    const keys = new Set([...Object.keys(a), ...Object.keys(b)]);
    return [...keys].every((k) => same(a[k], b[k]));
  }
  return a === b;
}

/** Only what differs, at any depth; what is no longer there is `null`, lists stand as a whole. */
export function mergePatch(before: object, after: object): Json {
  const [old, next] = [before as Json, after as Json];
  const out: Json = {};
  for (const key of new Set([...Object.keys(old), ...Object.keys(next)])) {
    const [was, is] = [old[key], next[key]];
    if (same(was, is)) continue;
    if (is === undefined) out[key] = null;
    else if (isObject(was) && isObject(is)) out[key] = mergePatch(was, is);
    else out[key] = is;
  }
  return out;
}
