import { describe, expect, it } from "vitest";
import type { ContainerSpec } from "../../api/types";
import {
  constraintRow,
  emptyForm,
  type Form,
  formOf,
  knownConstraints,
  pairRow,
  placeProblems,
  portRow,
  randomSecret,
  specOf,
  volumeRow,
} from "./form";

const filled = (change: Partial<Form>): Form => ({ ...emptyForm(), name: "web", image: "nginx", ...change });

describe("the create form", () => {
  it("asks for a name and an image, and for nothing else", () => {
    expect(specOf(emptyForm()).problems).toEqual({ name: "Give it a name", image: "Name an image" });
    expect(specOf(filled({}))).toEqual({ spec: { name: "web", image: "nginx", start: true }, problems: {} });
  });

  it("sends a request back as it was read", () => {
    const spec: ContainerSpec = {
      name: "db",
      image: "postgres:16",
      nodeId: "node_1_aaaaaaaaa",
      start: true,
      command: ["postgres", "-c", "log_statement=all it's"],
      entrypoint: ["/entry"],
      environment: { POSTGRES_PASSWORD: "x y" },
      labels: { app: "shop" },
      ports: [
        { container: 5432, host: 5432, hostIp: "127.0.0.1" },
        { container: 53, host: 0, protocol: "udp" },
      ],
      volumes: [{ container: "/data", host: "data" }, { container: "/etc/x", host: "/srv/x", mode: "ro" }, { container: "/tmp/y" }],
      cpuLimit: 1.5,
      memoryLimit: "1g",
      restart: "on-failure",
      networks: ["backend"],
      user: "1000:1000",
      workingDir: "/app",
      hostname: "db",
      capDrop: ["NET_RAW", "ALL"],
      readOnly: true,
      tty: true,
      stopGrace: 0,
      healthCheck: { command: ["pg_isready"], interval: 5, startPeriod: 0 },
      constraints: ["zone=a", "disk!=hdd", "gpu"],
      onNodeLost: "reschedule",
    };
    expect(specOf(formOf(spec))).toEqual({ spec, problems: {} });
    const { nodeId: _node, ...anywhere } = { ...spec, spread: "zone" };
    expect(specOf(formOf(anywhere))).toEqual({ spec: anywhere, problems: {} });
  });

  it("names what is wrong as the server does", () => {
    const { problems } = specOf(
      filled({
        memoryLimit: "lots",
        cpuLimit: "99",
        ports: [
          portRow(),
          portRow({ container: 80, host: 8080 }),
          { ...portRow(), container: "70000", host: "8080" },
          { ...portRow(), host: "90" },
        ],
        volumes: [volumeRow({ container: "/x" }), volumeRow({ container: "/x", host: "../etc" })],
        environment: [pairRow("A", "1"), pairRow("A", "2"), pairRow("1B", "")],
        labels: [pairRow("", "v")],
        command: "it's",
        capDrop: "NET_RAW lower",
        health: { ...emptyForm().health, retries: "3" },
        stopGrace: "-1",
      }),
    );
    expect(Object.keys(problems).sort()).toEqual(
      [
        "capDrop",
        "command",
        "cpuLimit",
        "environment[1]",
        "environment[2]",
        "healthCheck.command",
        "labels[0]",
        "memoryLimit",
        "ports[2].container",
        "ports[2].host",
        "ports[3].container",
        "stopGrace",
        "volumes[1].container",
        "volumes[1].host",
      ].sort(),
    );
  });

  it("lets the same port be mapped for two protocols or addresses", () => {
    const ports = [
      portRow({ container: 53, host: 53 }),
      portRow({ container: 53, host: 53, protocol: "udp" }),
      portRow({ container: 80, host: 80, hostIp: "10.0.0.1" }),
      portRow({ container: 81, host: 80, hostIp: "10.0.0.2" }),
    ];
    expect(specOf(filled({ ports })).problems).toEqual({});
  });

  it("puts the server's problems at the rows they came from", () => {
    const form = filled({
      ports: [portRow(), portRow({ container: 80, host: 80 })],
      environment: [pairRow("A", "1"), pairRow("B", "2")],
    });
    expect(
      placeProblems(form, {
        "ports[0].host": "taken",
        "environment.B": "no",
        "environment.gone": "where",
        "command[3]": "too long",
        memoryLimit: "too much",
      }),
    ).toEqual({ "ports[1].host": "taken", "environment[1]": "no", environment: "where", command: "too long", memoryLimit: "too much" });
  });

  it("asks for a place in the server's words", () => {
    const constraints = ["", "zone=a", "zone=", "a b", "gpu"].map(constraintRow);
    const { spec, problems } = specOf(filled({ constraints, spread: "-zone" }));
    expect(spec.constraints).toEqual(["zone=a", "zone=", "a b", "gpu"]);
    expect(Object.keys(problems)).toEqual(["constraints[2]", "constraints[3]", "spread"]);
    expect(placeProblems(filled({ constraints }), { "constraints[1]": "no" })).toEqual({ "constraints[2]": "no" });
    // On a node that is named there is nothing to spread.
    expect(specOf(filled({ nodeId: "node_1", spread: "zone" })).spec).not.toHaveProperty("spread");
    expect(knownConstraints([{ name: "n1", labels: { zone: "a", gpu: "" } }])).toEqual({
      keys: ["gpu", "zone"],
      texts: ["gpu", "node.name=n1", "zone=a"],
    });
  });

  it("makes secrets that differ", () => {
    const some = new Set(Array.from({ length: 50 }, randomSecret));
    expect(some.size).toBe(50);
    for (const s of some) expect(s).toMatch(/^[A-Za-z2-9]{24}$/);
  });
});
