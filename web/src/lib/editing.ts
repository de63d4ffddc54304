import { type FormEvent, type RefObject, useEffect, useRef, useState } from "react";
import { ApiError, queries } from "../api";
import { randomKey } from "../api/session";
import { toast } from "../ui/toast";
import { problemsOf } from "./data";

// What every form on a page of its own does: says what is wrong once it is sent, keeps what the server refused until that field is
// touched, and leads to the first problem.

/** What is wrong, by the path of its field as the server names it: `ports[0].container`. */
export type Problems = Record<string, string>;

/** Whether a field is one of these, or within one. */
export const isWithin = (field: string, names: readonly string[]): boolean =>
  names.some((n) => field === n || field.startsWith(`${n}[`) || field.startsWith(`${n}.`));

export interface Editing {
  form: RefObject<HTMLFormElement | null>;
  busy: boolean;
  /** What the last try failed with, where no field says it. */
  error: unknown;
  /** The problems to show now. */
  problems: Problems;
  /** How many fields need another look; none before the first try. */
  wrong: number;
  /** How many problems are within these fields. */
  count: (fields: readonly string[]) => number;
  /** Another form stands there: nothing is known of it yet. */
  reset: () => void;
  /** These fields were changed: what the server said of them is old. */
  touched: (fields: readonly string[]) => void;
  submit: (event: FormEvent) => void;
}

export function useEditing<R>(options: {
  body: object;
  problems: Problems;
  /** `key` is the same for the same request sent again. */
  send: (key: string) => Promise<R>;
  /** The server's problems, named as the form names them. */
  place: (problems: Problems, cause: unknown) => Problems;
  /** `left`: who sent it is on another page meanwhile. */
  done: (result: R, left: boolean) => void;
  /** What to say to who is on another page when it fails: `web was not created.` */
  failed: string;
  stale: readonly string[];
}): Editing {
  const { body, problems: own } = options;
  const [tried, setTried] = useState(false);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const [refused, setRefused] = useState<Problems>({});
  /** Counts the times the first problem is to be shown. */
  const [looks, setLooks] = useState(0);
  const form = useRef<HTMLFormElement>(null);
  const attempt = useRef({ body: "", key: "" });
  const left = useRef(false);
  const problems: Problems = { ...refused, ...(tried ? own : {}) };

  useEffect(() => {
    left.current = false;
    return () => {
      left.current = true;
    };
  }, []);
  // Once the problems are drawn and the fields take input again.
  useEffect(() => {
    if (looks === 0) return;
    const first = form.current?.querySelector<HTMLElement>('[aria-invalid="true"]');
    // One that is in a closed part has no place to scroll to.
    first?.closest("details")?.setAttribute("open", "");
    first?.focus();
    first?.scrollIntoView({ block: "center" });
  }, [looks]);

  const run = async () => {
    if (busy) return;
    setTried(true);
    setError(null);
    setRefused({});
    if (Object.keys(own).length > 0) {
      setLooks((n) => n + 1);
      return;
    }
    const text = JSON.stringify(body);
    if (attempt.current.body !== text) attempt.current = { body: text, key: randomKey() };
    setBusy(true);
    try {
      options.done(await options.send(attempt.current.key), left.current);
    } catch (cause) {
      // The next try is another request, also where the form stays as it is.
      attempt.current = { body: "", key: "" };
      if (left.current) {
        toast.failed(options.failed, cause);
        return;
      }
      setError(cause);
      setRefused(options.place(problemsOf(cause), cause));
      setLooks((n) => n + 1);
    } finally {
      for (const key of options.stale) void queries.invalidateQueries({ queryKey: [key] });
      setBusy(false);
    }
  };

  const placed = error instanceof ApiError && error.details.length > 0 && Object.keys(refused).length > 0;
  return {
    form,
    busy,
    error: placed ? null : error,
    problems,
    wrong: tried ? Object.keys(own).length : 0,
    count: (fields) => Object.keys(problems).filter((p) => isWithin(p, fields)).length,
    reset: () => {
      setTried(false);
      setRefused({});
      setError(null);
    },
    touched: (fields) => setRefused((r) => Object.fromEntries(Object.entries(r).filter(([field]) => !isWithin(field, fields)))),
    submit: (event) => {
      event.preventDefault();
      void run();
    },
  };
}
