import type { NewRestore } from "../../api/types";
import type { Problems } from "../../lib/editing";
import * as check from "../../lib/validate";
import { folder } from "./destination";

// What stands in the dialog that restores, and the request it stands for.

export interface RestoreForm {
  paths: readonly string[];
  where: "place" | "folder" | "server";
  serverId: string;
  target: string;
  name: string;
  volume: string;
  replace: "usual" | "yes" | "no";
  verify: boolean;
}

export const emptyRestore = (paths: readonly string[] = []): RestoreForm => ({
  paths,
  where: "place",
  serverId: "",
  target: "",
  name: "",
  volume: "",
  replace: "usual",
  verify: true,
});

/** The one volume that is restored whole, which may go into another one. */
export function volumeOf(form: RestoreForm): string | undefined {
  return form.paths.length === 1 && form.where !== "folder" ? /^\/volumes\/([^/]+)$/.exec(form.paths[0] as string)?.[1] : undefined;
}

/** What is there is lost: whoever asks for it names the server. */
export const needsConfirming = (form: RestoreForm): boolean => form.where === "place" || (form.where === "server" && form.serverId.startsWith("cont_"));

/** A container that is made again on a node has nothing that it could be compared with. */
export const isAnew = (form: RestoreForm, server: string): boolean =>
  form.where === "server" && form.serverId.startsWith("node_") && server.startsWith("cont_") && form.target.trim() === "" && !(volumeOf(form) && form.volume.trim());

export function restoreOf(form: RestoreForm): { body: NewRestore; problems: Problems } {
  const problems: Problems = {};
  const body: NewRestore = {};
  if (form.paths.length > 0) body.paths = [...form.paths];
  const target = form.target.trim();
  if (form.where === "server") {
    if (form.serverId === "") problems.serverId = "Choose a server";
    else body.serverId = form.serverId;
  }
  if (form.where !== "place") {
    const says = target === "" ? (form.where === "folder" ? "Say which folder" : undefined) : folder(target);
    if (says) problems.target = says;
    if (target !== "") body.target = target;
    const name = form.name.trim();
    if (form.where === "server" && name !== "" && target === "") {
      const wrong = check.containerName(name);
      if (wrong) problems.name = wrong;
      body.name = name;
    }
  }
  const volume = form.volume.trim();
  if (volumeOf(form) && volume !== "") {
    const wrong = check.volumeName(volume);
    if (wrong) problems.volume = wrong;
    body.volume = volume;
  }
  if (form.replace !== "usual") body.replace = form.replace === "yes";
  if (!form.verify) body.verify = false;
  return { body, problems };
}
