import type { ErrorBody, FieldProblem, OperationError } from "./types";

/** A request that did not succeed: what the server said of it, or that it could not be reached. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  /** The HTTP status; 0 when no answer came. */
  readonly status: number;
  readonly code: string;
  readonly details: FieldProblem[];
  readonly logs: string[];
  readonly requestId: string | undefined;
  readonly operationId: string | undefined;
  /** Seconds after which it is worth trying again. */
  readonly retryAfter: number | undefined;

  constructor(init: {
    status: number;
    code: string;
    message: string;
    details?: FieldProblem[];
    logs?: string[];
    requestId?: string;
    operationId?: string;
    retryAfter?: number;
  }) {
    super(init.message);
    this.status = init.status;
    this.code = init.code;
    this.details = init.details ?? [];
    this.logs = init.logs ?? [];
    this.requestId = init.requestId;
    this.operationId = init.operationId;
    this.retryAfter = init.retryAfter;
  }

  static unreachable(): ApiError {
    return new ApiError({
      status: 0,
      code: "unreachable",
      message: "The control plane can't be reached. Check that it runs and that this browser is online.",
    });
  }

  /** The error of a failed operation, as the request would have given it. */
  static ofOperation(error: OperationError, operationId?: string): ApiError {
    return new ApiError({
      status: error.status,
      code: error.code,
      message: error.error,
      details: error.details,
      logs: error.logs,
      operationId,
    });
  }

  /** Reads the server's error envelope; anything else than one is described by its status. */
  static async ofResponse(response: Response): Promise<ApiError> {
    const wait = Number(response.headers.get("retry-after"));
    const retryAfter = Number.isFinite(wait) && wait > 0 ? wait : undefined;
    let body: Partial<ErrorBody> | null = null;
    try {
      body = (await response.json()) as Partial<ErrorBody> | null;
    } catch {
      // Not JSON: a proxy in between answered, not the API.
    }
    if (body && typeof body === "object" && typeof body.error === "string") {
      return new ApiError({
        status: response.status,
        code: body.code ?? "unknown",
        message: body.error,
        details: body.details,
        logs: body.logs,
        requestId: body.requestId,
        operationId: body.operationId,
        retryAfter,
      });
    }
    return new ApiError({
      status: response.status,
      code: `http_${response.status}`,
      message: `The server answered ${response.status}${response.statusText ? ` ${response.statusText}` : ""} without an explanation.`,
      retryAfter,
    });
  }
}

/** A failure of any kind as a sentence for people. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? sentence(error.message) : "Something went wrong.";
}

/** The server's messages begin in lower case, to be put after a prefix; alone on a line they begin like a sentence. */
export function sentence(text: string): string {
  const first = text.match(/^[a-z]+(?=[\s,.!?]|$)/);
  return first ? text[0]?.toUpperCase() + text.slice(1) : text;
}

/**
 * A refusal with a list of reasons says them in its sentence, too: what stands before them, and the list. None where the sentence
 * says something else.
 */
export function leadOf(message: string, details: readonly FieldProblem[]): string | null {
  const first = details[0];
  if (details.length < 2 || !first || !details.every((d) => message.includes(d.message))) return null;
  const lead = message.slice(0, message.indexOf(first.message)).replace(/[:;,\s]+$/, "");
  return lead ? `${lead}:` : null;
}
