import { type Database, type DatabaseSpec, POSTGRES_VERSION, type PoolMode } from "../../api/types";
import * as check from "../../lib/validate";
import { type PairRow, pairRow, type Problems } from "../containers/form";

// What a database cluster's form has beyond that of other clusters. Problems are named as the server names them, but for
// parameters: `database.parameters[0]` is the first row.

export interface DatabaseForm {
  name: string;
  version: string;
  synchronous: boolean;
  readLagLimit: string;
  readOnlyPort: string;
  pool: boolean;
  poolMode: PoolMode;
  poolSize: string;
  parameters: PairRow[];
  /** As they are typed: with spaces or commas between. */
  extensions: string;
  cpuLimit: string;
  memoryLimit: string;
  image: string;
}

export const emptyDatabase = (): DatabaseForm => ({
  name: "",
  version: "",
  synchronous: true,
  readLagLimit: "",
  readOnlyPort: "",
  pool: false,
  poolMode: "transaction",
  poolSize: "",
  parameters: [],
  extensions: "",
  cpuLimit: "",
  memoryLimit: "",
  image: "",
});

/** The form of a database that is there. Its limits and its image are not told: what is left empty stays. */
export function databaseForm(d: Database): DatabaseForm {
  return {
    ...emptyDatabase(),
    name: d.name,
    version: String(d.version),
    synchronous: d.synchronous,
    readLagLimit: String(d.readLagLimit),
    readOnlyPort: String(d.readOnlyPort),
    pool: d.pool !== undefined,
    poolMode: d.pool?.mode ?? "transaction",
    poolSize: d.pool === undefined ? "" : String(d.pool.size),
    parameters: Object.entries(d.parameters).map(([name, value]) => pairRow(name, value)),
    extensions: d.extensions.join(" "),
  };
}

/** The names of a list as it is typed. */
export const namesOf = (line: string): string[] => line.split(/[\s,]+/).filter(Boolean);

/** What the request says of the database, and what is wrong with it; nothing where all is left to its default. */
export function databaseOf(form: DatabaseForm, made: { listenPort: number | undefined; editing: boolean }): { spec?: DatabaseSpec; problems: Problems } {
  const problems: Problems = {};
  const problem = (field: string, says: string | undefined) => {
    if (says) problems[`database.${field}`] ??= says;
  };
  const text = (field: string, value: string, rule: check.Check): string | undefined => {
    const kept = value.trim();
    if (kept === "") return undefined;
    problem(field, rule(kept));
    return kept;
  };
  const number = (field: string, value: string, rule: check.Check): number | undefined => {
    const kept = text(field, value, rule);
    return kept === undefined ? undefined : Number(kept);
  };

  const spec: DatabaseSpec = {};
  const put = <K extends keyof DatabaseSpec>(key: K, value: DatabaseSpec[K] | undefined) => {
    if (value !== undefined) spec[key] = value;
  };
  put("name", text("name", form.name, check.databaseName));
  put("version", number("version", form.version, check.whole(9, 99)));
  put("image", text("image", form.image, check.image));
  if (!made.editing && spec.version !== undefined && spec.version !== POSTGRES_VERSION && spec.image === undefined) {
    problem("version", `The built-in image has ${POSTGRES_VERSION}: name an image with this version`);
  }
  if (!form.synchronous) spec.synchronous = false;
  put("readLagLimit", number("readLagLimit", form.readLagLimit, check.whole(5, 3_600)));
  put("readOnlyPort", number("readOnlyPort", form.readOnlyPort, check.port));
  if (spec.readOnlyPort !== undefined && spec.readOnlyPort === made.listenPort) problem("readOnlyPort", "Reads and writes come by this port");
  if (form.pool) {
    const size = number("pool.size", form.poolSize, check.whole(1, 1_000));
    spec.pool = { ...(form.poolMode === "session" ? { mode: "session" as const } : {}), ...(size === undefined ? {} : { size }) };
  }
  const parameters: Record<string, string> = {};
  form.parameters.forEach((row, i) => {
    const [name, value] = [row.name.trim(), row.value.trim()];
    if (name === "" && value === "") return;
    const at = `parameters[${i}]`;
    problem(at, name === "" ? "Say which parameter" : check.parameterName(name));
    if (Object.hasOwn(parameters, name)) problem(at, "It is named twice");
    problem(`${at}.value`, value === "" ? "Say what it is to be" : check.parameterValue(value));
    parameters[name] = value;
  });
  if (Object.keys(parameters).length > 0) spec.parameters = parameters;
  const extensions = namesOf(form.extensions);
  extensions.forEach((name, i) => {
    problem("extensions", check.extensionName(name) && `${name}: ${check.extensionName(name)}`);
    if (extensions.indexOf(name) !== i) problem("extensions", `${name} is named twice`);
  });
  if (extensions.length > 0) spec.extensions = extensions;
  put("cpuLimit", number("cpuLimit", form.cpuLimit, check.cpu));
  put("memoryLimit", text("memoryLimit", form.memoryLimit, check.memory));
  return Object.keys(spec).length > 0 ? { spec, problems } : { problems };
}

/** Where a problem that the server names is shown. */
export function placeDatabaseProblem(form: DatabaseForm, field: string): string {
  const parameter = /^database\.parameters\.(.+)$/.exec(field);
  if (parameter) {
    const row = form.parameters.findIndex((r) => r.name.trim() === parameter[1]);
    return row < 0 ? "database.parameters" : `database.parameters[${row}]`;
  }
  return field.replace(/^database\.extensions\[\d+\]$/, "database.extensions");
}
