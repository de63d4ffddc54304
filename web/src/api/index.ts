import { QueryClient } from "@tanstack/react-query";
import { Client } from "./client";
import { ApiError } from "./errors";
import { browserParts, Session } from "./session";

export type { Page } from "./client";
export { ApiError, messageOf } from "./errors";

/** This tab's session and what calls the API with it. */
export const session = new Session(browserParts());
export const client = new Client(session);

export const queries = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 5_000,
      refetchOnWindowFocus: true,
      // What was refused once is refused again; only a server that is away or overloaded may come back.
      retry: (count, error) => count < 2 && error instanceof ApiError && (error.status === 0 || error.status >= 500),
      retryDelay: (attempt) => Math.min(500 * 2 ** attempt, 4_000),
    },
    mutations: { retry: false },
  },
});
