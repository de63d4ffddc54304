import { ApiError } from "./errors";
import type { Session } from "./session";

export type Query = Record<string, string | number | boolean | readonly string[] | undefined | null>;

export interface CallOptions {
  query?: Query;
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

/** A successful answer. */
export interface Reply<T> {
  status: number;
  data: T;
  count?: number;
  nextCursor?: string;
  message?: string;
}

/** One page of a list. */
export interface Page<T> {
  items: T[];
  next: string | undefined;
  /** How many there are on all pages, where that is known. */
  total?: number;
}

export type Method = "GET" | "POST" | "PUT" | "PATCH" | "DELETE";

/** Calls the API with the session's token, and once more with a new one where that was refused. */
export class Client {
  readonly #session: Pick<Session, "accessToken" | "replace">;
  readonly #fetch: typeof fetch;

  constructor(session: Pick<Session, "accessToken" | "replace">, fetcher: typeof fetch = (...args) => fetch(...args)) {
    this.#session = session;
    this.#fetch = fetcher;
  }

  /** The answer's envelope. Throws an ApiError for anything but success. */
  async call<T>(method: Method, path: string, options: CallOptions = {}): Promise<Reply<T>> {
    const response = await this.send(method, path, options);
    try {
      const body = (await response.json()) as { data: T; count?: number; nextCursor?: string; message?: string };
      return { status: response.status, data: body.data, count: body.count, nextCursor: body.nextCursor, message: body.message };
    } catch (error) {
      if (isAbort(error)) throw error;
      throw new ApiError({ status: response.status, code: "bad_answer", message: "The server's answer could not be read." });
    }
  }

  async get<T>(path: string, query?: Query, signal?: AbortSignal): Promise<T> {
    return (await this.call<T>("GET", path, { query, signal })).data;
  }

  async page<T>(path: string, query?: Query, signal?: AbortSignal): Promise<Page<T>> {
    const reply = await this.call<T[]>("GET", path, { query, signal });
    return { items: reply.data, next: reply.nextCursor };
  }

  /** Every entry of a list, page by page. */
  async all<T>(path: string, query?: Query, signal?: AbortSignal): Promise<T[]> {
    const items: T[] = [];
    let cursor: string | undefined;
    do {
      const page: Page<T> = await this.page<T>(path, { ...query, limit: 200, cursor }, signal);
      items.push(...page.items);
      cursor = page.next;
    } while (cursor);
    return items;
  }

  /** A successful response whose body was not read yet. */
  async send(method: Method, path: string, options: CallOptions = {}): Promise<Response> {
    const token = await this.#session.accessToken();
    let response = await this.#once(token, method, path, options);
    if (response.status === 401) {
      response = await this.#once(await this.#session.replace(token), method, path, options);
    }
    if (!response.ok) throw await ApiError.ofResponse(response);
    return response;
  }

  async #once(token: string, method: Method, path: string, { query, body, headers, signal }: CallOptions): Promise<Response> {
    const init: RequestInit = {
      method,
      signal: signal ?? null,
      headers: { authorization: `Bearer ${token}`, accept: "application/json", ...headers },
    };
    if (body !== undefined) {
      init.body = JSON.stringify(body);
      init.headers = { ...init.headers, "content-type": "application/json" };
    }
    try {
      return await this.#fetch(withQuery(path, query), init);
    } catch (error) {
      if (isAbort(error)) throw error;
      throw ApiError.unreachable();
    }
  }
}

export function withQuery(path: string, query?: Query): string {
  const params = new URLSearchParams();
  for (const [key, value] of Object.entries(query ?? {})) {
    if (value === undefined || value === null || value === "") continue;
    for (const one of Array.isArray(value) ? value : [value]) params.append(key, String(one));
  }
  const text = params.toString();
  return text ? `${path}?${text}` : path;
}

export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}
