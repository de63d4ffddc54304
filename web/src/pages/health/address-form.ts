import type { AddressProbe, AddressProbeType, NewServer, Server } from "../../api/types";
import * as check from "../../lib/validate";

// An address as text in a form, and the way to the request.

export interface AddressForm {
  name: string;
  address: string;
  how: AddressProbeType | "none";
  port: string;
  path: string;
  status: string;
  timeout: string;
}

export function addressForm(server?: Server): AddressForm {
  const probe = server?.probe;
  return {
    name: server?.name ?? "",
    address: server?.address ?? "",
    how: probe?.type ?? (server && server.port === undefined ? "none" : server ? "tcp" : "https"),
    port: server?.port ? String(server.port) : "",
    path: probe?.path ?? "",
    status: probe?.expectStatus ? String(probe.expectStatus) : "",
    timeout: probe?.timeout ? String(probe.timeout) : "",
  };
}

/** The request the form stands for, and what is wrong with it by the names the server has for the fields. */
export function addressOf(form: AddressForm): { body: NewServer; problems: Record<string, string> } {
  const problems: Record<string, string> = {};
  const test = (field: string, value: string, rule: check.Check) => {
    const says = rule(value);
    if (says) problems[field] = says;
  };
  test("name", form.name.trim(), check.serverName);
  test("address", form.address.trim(), check.serverAddress);
  const body: NewServer = { name: form.name.trim(), address: form.address.trim() };
  if (form.how === "none") return { body, problems };
  const probe: AddressProbe = { type: form.how };
  if (form.port.trim() !== "" || form.how === "tcp") {
    test("port", form.port.trim(), check.port);
    body.port = Number(form.port.trim());
  }
  if (form.how !== "tcp") {
    if (form.path.trim() !== "") {
      test("probe.path", form.path.trim(), check.probePath);
      probe.path = form.path.trim();
    }
    if (form.status.trim() !== "") {
      test("probe.expectStatus", form.status.trim(), check.whole(100, 599));
      probe.expectStatus = Number(form.status.trim());
    }
  }
  if (form.timeout.trim() !== "") {
    test("probe.timeout", form.timeout.trim(), check.whole(1, 10));
    probe.timeout = Number(form.timeout.trim());
  }
  body.probe = probe;
  return { body, problems };
}
