import { describe, expect, it } from "vitest";
import type { HealthInterval, Server } from "../../api/types";
import { addressForm, addressOf } from "./address-form";
import { limitForm, limitsOf } from "./limits";
import { availability, healthWord, responseTime, timeline } from "./words";

describe("an address", () => {
  const form = { ...addressForm(), name: "router", address: "192.168.1.1" };

  it("is sent with what is filled in, and nothing else", () => {
    expect(addressOf(form)).toEqual({ body: { name: "router", address: "192.168.1.1", probe: { type: "https" } }, problems: {} });
    expect(addressOf({ ...form, how: "none", port: "9" }).body).toEqual({ name: "router", address: "192.168.1.1" });
    expect(addressOf({ ...form, how: "http", port: "8080", path: "/up", status: "204", timeout: "2" }).body).toEqual({
      name: "router",
      address: "192.168.1.1",
      port: 8080,
      probe: { type: "http", path: "/up", expectStatus: 204, timeout: 2 },
    });
    // What a form of another way of checking had stays behind.
    expect(addressOf({ ...form, how: "tcp", port: "22", path: "/up", status: "204" }).body.probe).toEqual({ type: "tcp" });
  });

  it("names what is wrong as the server does", () => {
    const wrong = { name: "settings", address: "http://x", how: "http" as const, port: "0", path: "up", status: "99", timeout: "11" };
    expect(Object.keys(addressOf(wrong).problems).sort()).toEqual(
      ["address", "name", "port", "probe.expectStatus", "probe.path", "probe.timeout"].sort(),
    );
    expect(addressOf({ ...form, how: "tcp" }).problems).toHaveProperty("port");
    for (const good of ["db.example.com", "::1", "2001:db8::1", "a_b.internal", "localhost"]) {
      expect(addressOf({ ...form, address: good }).problems, good).toEqual({});
    }
    for (const bad of ["", "x:80", "10.0.0.256", "a..b", "-a", "a b"]) {
      expect(addressOf({ ...form, address: bad }).problems, bad).toHaveProperty("address");
    }
  });

  it("is read back into the form", () => {
    const server: Server = { id: "server_1", kind: "address", name: "a", address: "b", port: 22, status: "healthy", created: "" };
    expect(addressForm(server)).toMatchObject({ how: "tcp", port: "22" });
    expect(addressForm({ ...server, port: undefined } as unknown as Server).how).toBe("none");
    expect(addressForm({ ...server, probe: { type: "https", timeout: 3 } })).toMatchObject({ how: "https", timeout: "3" });
  });
});

describe("limits", () => {
  const base = { cpu: { fail: 95, recover: 85 }, memory: { fail: 5, recover: 10 }, cpuChecks: 3 };

  it("are sent where they are filled in, each with both halves", () => {
    const form = limitForm({});
    expect(limitsOf(form, base)).toEqual({ thresholds: {}, problems: {} });
    form.cpu.fail = "99";
    expect(limitsOf(form, base)).toEqual({ thresholds: { cpu: { fail: 99, recover: 85 } }, problems: {} });
    expect(limitsOf(limitForm(base), base)).toEqual({ thresholds: base, problems: {} });
  });

  it("must be ones under which a check can pass again", () => {
    const form = limitForm(base);
    form.cpu.recover = "96";
    form.memory.recover = "4";
    form.cpuChecks = "0";
    form.disk.fail = "101";
    expect(Object.keys(limitsOf(form, base).problems).sort()).toEqual(
      [
        "thresholds.cpu.recover",
        "thresholds.cpuChecks",
        "thresholds.disk.fail",
        "thresholds.disk.recover",
        "thresholds.memory.recover",
      ].sort(),
    );
  });
});

describe("health in words", () => {
  it("calls one or two failed checks degraded", () => {
    expect(healthWord({ status: "unknown", degraded: true })).toBe("degraded");
    expect(healthWord({ status: "unknown", degraded: false })).toBe("unknown");
    expect(healthWord({ status: "unhealthy", degraded: false })).toBe("unhealthy");
  });

  it("never rounds up to a hundred", () => {
    expect([100, 99.999, 0, null].map(availability)).toEqual(["100%", "99.99%", "0.00%", "–"]);
    expect([null, 0.2, 45.2, 1234].map(responseTime)).toEqual(["–", "0.2 ms", "45 ms", "1,234 ms"]);
  });

  it("lays its history out on a line", () => {
    const at = (minute: number) => new Date(minute * 60_000).toISOString();
    const row = (from: number, to: number | null): HealthInterval => ({
      from: at(from),
      to: to === null ? null : at(to),
      status: "healthy",
      degraded: false,
      failed: [],
    });
    const parts = timeline([row(30, null), row(20, 30), row(0, 20), row(-9, 0)], 10 * 60_000, 50 * 60_000);
    expect(parts.map((p) => p.share)).toEqual([0.25, 0.25, 0.5]);
    expect(parts.map((p) => p.interval.from)).toEqual([at(0), at(20), at(30)]);
  });
});
