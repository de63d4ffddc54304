import { describe, expect, it } from "vitest";
import { leadOf, sentence } from "../api/errors";
import { axisTicks } from "../ui/ticks";
import { plainText, spans } from "./ansi";
import * as format from "./format";
import { readLayer } from "./layers";
import { LogBuffer } from "./logbuffer";
import { perSecond } from "./rates";
import { joinWords, parseEnvFile, splitWords } from "./shell";
import * as check from "./validate";

const table = <I, O>(rows: [I, O][], run: (input: I) => O) => {
  for (const [input, output] of rows) expect(run(input), JSON.stringify(input)).toEqual(output);
};

it("a refusal whose sentence lists its reasons leaves them to the list", () => {
  const details = ["n1 is cordoned", "n2 is not ready"].map((message) => ({ field: "nodeId", message }));
  expect(leadOf("no node can take it: n1 is cordoned. n2 is not ready", details)).toBe("no node can take it:");
  expect(leadOf("no node can take it", details)).toBeNull();
  expect(leadOf("n1 is cordoned. n2 is not ready", details)).toBeNull();
  expect(leadOf("no node can take it: n1 is cordoned", details.slice(0, 1))).toBeNull();
});

describe("formats", () => {
  it("bytes", () =>
    table(
      [
        [0, "0 B"],
        [1023, "1023 B"],
        [1024, "1 KiB"],
        [1536, "1.5 KiB"],
        [1024 * 1023.96, "1 MiB"],
        [118 * 1024 * 1024, "118 MiB"],
        [1024 ** 4 * 2.25, "2.3 TiB"],
        [-2048, "-2 KiB"],
        [Number.NaN, "–"],
      ],
      format.bytes,
    ));
  it("percent", () =>
    table(
      [
        [0, "0.0%"],
        [99.94, "99.9%"],
        [99.96, "100%"],
        [164.4, "164%"],
        [Number.POSITIVE_INFINITY, "–"],
      ],
      format.percent,
    ));
  it("memory texts", () =>
    table(
      [
        ["512m", 512 * 1024 ** 2],
        ["1G", 1024 ** 3],
        ["65536k", 64 * 1024 ** 2],
        ["lots", Number.NaN],
        ["1.5g", Number.NaN],
      ],
      format.memoryBytes,
    ));
  it("relative times", () => {
    const now = Date.parse("2026-02-03T12:00:00.000Z");
    table(
      [
        ["2026-02-03T11:59:58.000Z", "just now"],
        ["2026-02-03T12:00:08.000Z", "just now"],
        ["2026-02-03T11:59:30.000Z", "30s ago"],
        ["2026-02-03T11:00:00.000Z", "1h ago"],
        ["2026-01-01T12:00:00.000Z", "1mo ago"],
        ["2024-01-01T12:00:00.000Z", "2y ago"],
        ["2026-02-10T12:00:00.000Z", "in 7d"],
        ["never", "–"],
      ],
      (t) => format.relative(t, now),
    );
  });
  it("durations", () =>
    table(
      [
        [0, "0 ms"],
        [420, "420 ms"],
        [1000, "1s"],
        [61_000, "1m 1s"],
        [3_600_000, "1h"],
        [93_784_000, "1d 2h"],
        [-5, "0 ms"],
      ],
      format.duration,
    ));
  it("sentences", () =>
    table(
      [
        ["there is no container `x`", "There is no container `x`"],
        ["`name`: too long", "`name`: too long"],
        ["nginx:latest is missing", "nginx:latest is missing"],
        ["already", "Already"],
      ],
      sentence,
    ));
  it("ids", () => expect(format.shortId(`sha256:${"ab".repeat(32)}`)).toBe("abababababab"));
});

describe("command lines", () => {
  it("are split as a shell's quoting does", () =>
    table(
      [
        ["", { words: [] }],
        ["  sleep   10 ", { words: ["sleep", "10"] }],
        [`sh -c 'echo "a b" | wc'`, { words: ["sh", "-c", 'echo "a b" | wc'] }],
        [`a"b c"'d'\\ e`, { words: ["ab cd e"] }],
        [`"" ''`, { words: ["", ""] }],
        [`"\\n\\"\\$"`, { words: [`\\n"$`] }],
        ["it's", { problem: "a ' is not closed" }],
        ["a\\", { problem: "ends with a backslash" }],
        ["😀 'ü'", { words: ["😀", "ü"] }],
      ],
      (line) => splitWords(line) as { words?: string[]; problem?: string },
    ));
  it("come back as they were", () => {
    for (const words of [[], [""], ["a", "b c"], ["it's", '"', "\\", "$x", "\n", "ü"], ["node", "-e", "require('http')"]]) {
      expect(splitWords(joinWords(words)).words).toEqual(words);
    }
  });
  it("and .env files are read", () =>
    expect(parseEnvFile("# c\nA=1\nexport B = 'x y'\n\nC=\"q=\"\nnothing\n=x\nD=")).toEqual([
      ["A", "1"],
      ["B", "x y"],
      ["C", "q="],
      ["D", ""],
    ]));
});

describe("rules", () => {
  // The same examples as crates/types has.
  const cases: [string, check.Check, string[], string[]][] = [
    [
      "image",
      check.image,
      ["nginx", "nginx:latest", "postgres:16", "localhost:5000/a/b:1", "ghcr.io/a-b/c__d.e", "a--b", `x@sha256:${"a".repeat(64)}`],
      ["", "Nginx", "nginx:", "-nginx", "a//b", "nginx:la test", "a@sha256:zz", "a;b", "$(x)", "../a", "a:b:c", "/a", "a/"],
    ],
    [
      "container name",
      check.containerName,
      ["a", "web-1", "container", "A.b_c"],
      ["", ".", "..", "-x", "a b", "a;b", "a/b", "é", "list", "cont_1", "a".repeat(101)],
    ],
    [
      "memory",
      check.memory,
      ["512m", "1g", "6m", "65536k", "2G"],
      ["lots", "", "m", "512", "-1g", "0m", "5m", "1.5g", "1t", "512mb", " 1g", "10000g", "99999999999999999999g"],
    ],
    ["cpu", check.cpu, ["0.1", "1", "64", ".5", "2.25"], ["", "0", "0.05", "65", "1,5", "x", "1e1"]],
    ["port", check.port, ["1", "80", "65535"], ["", "0", "70000", "-1", "8.0", "x"]],
    ["host port", check.hostPort, ["0", "8080"], ["65536", "a"]],
    ["mount source", check.mountSource, ["data", "/data/postgres", "/a..b"], ["x", "/a/../etc", "../etc", "/a:b", "/./a"]],
    ["container path", check.containerPath, ["/data"], ["/", "data", "/a:b", ""]],
    ["label", check.labelKey, ["a", "com.example/x"], ["", "io.neuralmesh.id", "-a", "a-"]],
    ["variable", check.envName, ["A", "_x", "a.b-c"], ["", "1A", "A=", "A B"]],
    ["host address", check.hostIp, ["127.0.0.1", "0.0.0.0"], ["256.0.0.1", "1.2.3", "1.2.3.4.", "::1"]],
    ["user", check.runAs, ["root", "1000:1000", "www-data"], ["", "a:b:c", "-x", "a b"]],
    ["host name", check.hostName, ["a", "web-1"], ["", "-a", "a-", "a.b"]],
    ["capability", check.capability, ["ALL", "NET_RAW", "CAP_NET_RAW"], ["", "net_raw", "A"]],
    ["registry", check.registryHost, ["docker.io", "registry.example.com", "10.0.0.5:5000"], ["", "Docker.io", "a:0", "https://a", "a/b"]],
    ["username", check.username, ["admin", "a.b@c"], ["", "Admin", "-a", "a b"]],
    ["password", check.password, ["0123456789", "ü".repeat(10)], ["short", "x".repeat(201)]],
  ];
  for (const [name, rule, good, bad] of cases) {
    it(name, () => {
      for (const text of good) expect(rule(text), text).toBeUndefined();
      for (const text of bad) expect(rule(text), JSON.stringify(text)).toBeTypeOf("string");
    });
  }
  it("what looks secret", () => {
    for (const name of ["DB_PASSWORD", "api_key", "DATABASE_URL", "SENTRY_DSN"]) expect(check.looksSecret(name)).toBe(true);
    for (const name of ["PORT", "PASSENGER_COUNT", "HOST"]) expect(check.looksSecret(name)).toBe(false);
  });
});

describe("log lines", () => {
  const line = (ms: number, text: string, stream: "stdout" | "stderr" = "stdout") => ({
    stream,
    time: new Date(ms).toISOString(),
    line: text,
  });

  it("keep their colours", () => {
    expect(spans("plain")).toEqual([{ text: "plain", style: "" }]);
    expect(spans("\x1b[31merr\x1b[0m: \x1b[1;32mok\x1b[22m.\x1b[39m")).toEqual([
      { text: "err", style: "ansi-red" },
      { text: ": ", style: "" },
      { text: "ok", style: "ansi-green ansi-bold" },
      { text: ".", style: "ansi-green" },
    ]);
    expect(plainText("\x1b[38;5;4mblue\x1b[0m\x1b[2K\x1b]0;title\x07!")).toBe("blue!");
    expect(spans("\x1b[38;2;1;2;3mx")).toEqual([{ text: "x", style: "" }]);
  });

  it("that come twice after a new connection show once", () => {
    const buffer = new LogBuffer();
    buffer.add([line(1, "a"), line(2, "b"), line(2, "b"), line(2, "c")]);
    expect(buffer.since).toBe(new Date(2).toISOString());
    buffer.reconnected();
    expect(buffer.add([line(2, "b"), line(2, "b"), line(2, "c")])).toBe(false);
    // A fourth line of the same millisecond is new, and so is the same text later on.
    buffer.add([line(2, "b"), line(3, "b")]);
    expect(buffer.chunks.flatMap((c) => c.lines.map((l) => l.line))).toEqual(["a", "b", "b", "c", "b", "b"]);
    // Without a new connection nothing is taken for a repetition.
    buffer.add([line(3, "b")]);
    expect(buffer.count).toBe(7);
  });

  it("are let go of from the oldest on, and full chunks never change", () => {
    const buffer = new LogBuffer(250);
    buffer.add(Array.from({ length: 150 }, (_, i) => line(i, String(i))));
    const first = buffer.chunks[0];
    buffer.add([line(500, "x")]);
    expect(buffer.chunks[0]).toBe(first);
    buffer.add(Array.from({ length: 150 }, (_, i) => line(600 + i, "y")));
    expect(buffer.dropped).toBe(true);
    expect(buffer.count).toBeLessThanOrEqual(250);
    expect(buffer.chunks[0]).not.toBe(first);
  });
});

describe("charts", () => {
  it("have round ticks that reach the highest value", () => {
    for (const binary of [false, true]) {
      for (const max of [0, 0.3, 1, 7, 99, 101, 150, 1023, 1025, 5_000_000, 3.2e9]) {
        const { max: top, ticks } = axisTicks(max, binary);
        expect(top).toBeGreaterThanOrEqual(max);
        expect(ticks[0]).toBe(0);
        expect(ticks.at(-1)).toBeCloseTo(top);
        expect(ticks.length).toBeLessThanOrEqual(6);
        expect(ticks.length).toBeGreaterThanOrEqual(2);
      }
    }
    expect(axisTicks(100, false).ticks).toEqual([0, 25, 50, 75, 100]);
    expect(axisTicks(120 * 1024 * 1024, true).ticks.map(format.bytes)).toEqual(["0 B", "32 MiB", "64 MiB", "96 MiB", "128 MiB"]);
  });
  it("turn counters to rates", () => {
    expect(perSecond([0, 1000, 3000, 4000, 4000], [10, 30, 50, 5, 9])).toEqual([Number.NaN, 20, 10, Number.NaN, Number.NaN]);
  });
});

it("a pull's lines tell of layers", () => {
  expect(readLayer("a1b2c3d4e5f6: Downloading 120 of 3000 kB")).toEqual({
    id: "a1b2c3d4e5f6",
    status: "Downloading",
    current: 120_000,
    total: 3_000_000,
  });
  expect(readLayer("a1b2c3d4e5f6: Pull complete")).toEqual({ id: "a1b2c3d4e5f6", status: "Pull complete", current: 0, total: 0 });
  expect(readLayer("latest: Pulling from library/nginx")).toBeNull();
});
