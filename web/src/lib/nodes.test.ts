import { describe, expect, it } from "vitest";
import type { Operation } from "../api/types";
import { eventDetail } from "./journal";
import { joinCommand, newer, nodeState } from "./nodes";

const drain = (target: string) => ({ kind: "node.drain", target }) as Operation;

describe("the state of a node", () => {
  it("says what matters most", () => {
    expect(nodeState({ id: "a", status: "ready" })).toBe("ready");
    expect(nodeState({ id: "a", status: "cordoned" }, [drain("b")])).toBe("cordoned");
    expect(nodeState({ id: "a", status: "cordoned" }, [drain("a")])).toBe("draining");
    expect(nodeState({ id: "a", status: "notReady" }, [drain("a")])).toBe("notReady");
    expect(nodeState({ id: "a", status: "notReady", lostSince: "2026-02-03T02:30:00.000Z" })).toBe("lost");
    expect(nodeState({ id: "a", status: "notReady", lostSince: "2026-02-03T02:30:00.000Z", revoked: true })).toBe("revoked");
  });
});

describe("versions", () => {
  it("are ordered as releases are", () => {
    const order = ["0.4.9", "0.5.0-rc.1", "0.5.0-rc.2", "0.5.0-rc.10", "0.5.0", "0.10.0", "1.0.0"];
    for (let i = 1; i < order.length; i++) {
      expect(newer(order[i] as string, order[i - 1] as string), `${order[i]} after ${order[i - 1]}`).toBe(true);
      expect(newer(order[i - 1] as string, order[i] as string)).toBe(false);
    }
    expect(newer("0.5.0", "0.5.0")).toBe(false);
    expect(newer("0.5.0+build.2", "0.5.0")).toBe(false);
  });
});

it("the line to paste keeps the token out of the arguments", () => {
  expect(joinCommand("nm1.a.b", "mesh.example.com:7443", "systemd")).toBe(
    "NEURALMESH_JOIN=nm1.a.b neuralmesh agent install --server https://mesh.example.com:7443",
  );
  expect(joinCommand("t", "10.0.0.1:1", "hand")).toBe("NEURALMESH_JOIN=t neuralmesh agent --server https://10.0.0.1:1");
});

it("an event says more than its kind where there is more", () => {
  expect(eventDetail({ kind: "started", detail: {} })).toBe("");
  expect(eventDetail({ kind: "died", detail: { exitCode: 4 } })).toBe("exit code 4");
  expect(eventDetail({ kind: "died", detail: { message: "it ended unseen" } })).toBe("it ended unseen");
  expect(eventDetail({ kind: "health", detail: { health: "unhealthy" } })).toBe("unhealthy");
  expect(eventDetail({ kind: "gap", detail: { count: 3 } })).toBe("3 events before this are lost");
  expect(eventDetail({ kind: "gap", detail: {} })).toBe("events before this are lost");
});
