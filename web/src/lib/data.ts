import { keepPreviousData, type QueryKey, useMutation, useQuery } from "@tanstack/react-query";
import { useCallback, useEffect, useState, useSyncExternalStore } from "react";
import { ApiError, type Page, queries, session } from "../api";
import * as calls from "../api/calls";
import { openStream } from "../api/sse";
import type { Node, Operation, Role, User } from "../api/types";
import { toast } from "../ui/toast";

export const isFinal = (state: Operation["state"]): boolean => state === "succeeded" || state === "failed" || state === "cancelled";

/** Who is signed in. Only drawn pages ask, and they are drawn only then. */
export function useUser(): User {
  const state = useSyncExternalStore(session.subscribe, () => session.state);
  return state.phase === "signed-in" ? state.user : { id: "", username: "", role: "viewer", disabled: false, created: "", updated: "" };
}

const RANK: Record<Role, number> = { viewer: 0, operator: 1, admin: 2 };
export const atLeast = (role: Role, wanted: Role): boolean => RANK[role] >= RANK[wanted];

/** Whether the user may change containers, images, volumes and networks. */
export const useMayOperate = (): boolean => atLeast(useUser().role, "operator");
export const useIsAdmin = (): boolean => atLeast(useUser().role, "admin");

/** A page of a list and the way to the ones beside it. Another `key` begins at the first page. */
export function usePaged<T>(
  key: QueryKey,
  fetchPage: (cursor: string | undefined, signal: AbortSignal) => Promise<Page<T>>,
  options: { refetchInterval?: number | ((query: { state: { data: Page<T> | undefined } }) => number | false); enabled?: boolean } = {},
) {
  const text = JSON.stringify(key);
  const [place, setPlace] = useState<{ key: string; cursors: string[] }>({ key: text, cursors: [] });
  const cursors = place.key === text ? place.cursors : [];
  const cursor = cursors.at(-1);
  const query = useQuery({
    queryKey: [...key, cursor ?? ""],
    queryFn: ({ signal }) => fetchPage(cursor, signal),
    placeholderData: keepPreviousData,
    ...options,
  });
  const next = query.data?.next;
  return {
    query,
    rows: query.data?.items,
    pager: {
      page: cursors.length,
      hasNext: next !== undefined,
      busy: query.isPlaceholderData,
      onNext: () => next !== undefined && setPlace({ key: text, cursors: [...cursors, next] }),
      onBack: () => setPlace({ key: text, cursors: cursors.slice(0, -1) }),
    },
  };
}

export function useNodes() {
  return useQuery({ queryKey: ["nodes"], queryFn: ({ signal }) => calls.nodes.list(signal), staleTime: 15_000 });
}

/** The operations that go on now. */
export function useRunning() {
  return useQuery({
    queryKey: ["operations", "running"],
    queryFn: async ({ signal }) => (await calls.operations.list({ state: "running", limit: 100 }, signal)).items,
  });
}

/** The alerts that fire now, 100 at most. */
export function useFiring() {
  return useQuery({
    queryKey: ["alerts", "firing"],
    queryFn: async ({ signal }) => (await calls.alerts.list({ state: "firing", limit: 100 }, signal)).items,
  });
}

/** Gives a node's name for its id. */
export function useNodeName(): (id: string) => string {
  const { data } = useNodes();
  return useCallback((id: string) => data?.find((n) => n.id === id)?.name ?? id, [data]);
}

/** Nodes that take new work. */
export const takesWork = (node: Node): boolean => node.status === "ready";

/**
 * Does something that changes the server, says how it went, and lets the lists of `stale` ask again.
 * `quiet` leaves a failure to the caller, who shows `error` in its place.
 */
export function useAct<V = void, R = unknown>(options: {
  run: (input: V) => Promise<R>;
  done?: (result: R, input: V) => string | null;
  failed?: string;
  stale: string[];
  quiet?: boolean;
  after?: (result: R, input: V) => void;
}) {
  return useMutation<R, unknown, V>({
    mutationFn: options.run,
    onSuccess: (result, input) => {
      const text = options.done?.(result, input);
      if (text) toast.done(text);
      options.after?.(result, input);
    },
    onError: (error) => {
      if (!options.quiet) toast.failed(options.failed ?? "It did not work.", error);
    },
    onSettled: () => {
      for (const key of options.stale) void queries.invalidateQueries({ queryKey: [key] });
    },
  });
}

/** An operation, followed until its end. */
export function useOperation(id: string | null): { operation: Operation | null; error: ApiError | null } {
  const [operation, setOperation] = useState<Operation | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  useEffect(() => {
    setOperation(null);
    setError(null);
    if (!id) return;
    return follow(id, setOperation, setError);
  }, [id]);
  return { operation, error };
}

function follow(id: string, onChange: (operation: Operation) => void, onError: (error: ApiError) => void): () => void {
  return openStream({
    open: (_last, signal) => calls.operations.follow(id, signal),
    isEnd: (event) => event.event === "end" || (event.event === "operation" && isFinal((JSON.parse(event.data) as Operation).state)),
    onEvent: (event) => {
      if (event.event === "operation") onChange(JSON.parse(event.data) as Operation);
    },
    onState: (state, error) => {
      if (state === "failed") onError(error ?? ApiError.unreachable());
    },
    visibility: null,
  });
}

/** Waits for an operation's end, telling of each change. Throws what it failed with. */
export function finished(begun: Operation, onChange: (operation: Operation) => void): Promise<Operation> {
  onChange(begun);
  return new Promise((resolve, reject) => {
    const stop = follow(
      begun.id,
      (operation) => {
        onChange(operation);
        if (!isFinal(operation.state)) return;
        stop();
        if (operation.state === "succeeded") resolve(operation);
        else
          reject(
            operation.error
              ? ApiError.ofOperation(operation.error, operation.id)
              : new ApiError({ status: 409, code: "cancelled", message: "It was cancelled.", operationId: operation.id }),
          );
      },
      reject,
    );
  });
}

/** The problems a failed request named, by field. */
export function problemsOf(error: unknown): Record<string, string> {
  const out: Record<string, string> = {};
  if (error instanceof ApiError) {
    for (const { field, message } of error.details) {
      const text = message.replace(/^`[^`]*`: /, "");
      out[field] = out[field] ? `${out[field]}; ${text}` : text;
    }
  }
  return out;
}
