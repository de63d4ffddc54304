import {
  Activity,
  Archive,
  Bell,
  Boxes,
  Box,
  Container as ContainerIcon,
  HardDrive,
  HeartPulse,
  KeyRound,
  Layers,
  ListTodo,
  Network,
  ScrollText,
  Server,
  Users,
} from "lucide-react";
import type { ReactNode } from "react";
import type { Role } from "./api/types";

export interface NavEntry {
  path: string;
  text: string;
  icon: ReactNode;
  role?: Role;
}

export const NAV: { title: string; entries: NavEntry[] }[] = [
  {
    title: "Workloads",
    entries: [
      { path: "/containers", text: "Containers", icon: <ContainerIcon /> },
      { path: "/clusters", text: "Clusters", icon: <Boxes /> },
      { path: "/backups", text: "Backups", icon: <Archive /> },
      { path: "/images", text: "Images", icon: <Layers /> },
      { path: "/volumes", text: "Volumes", icon: <HardDrive /> },
      { path: "/networks", text: "Networks", icon: <Network /> },
    ],
  },
  {
    title: "Fleet",
    entries: [
      { path: "/nodes", text: "Nodes", icon: <Server /> },
      { path: "/health", text: "Health", icon: <HeartPulse /> },
      { path: "/alerts", text: "Alerts", icon: <Bell /> },
      { path: "/registries", text: "Registries", icon: <Box /> },
    ],
  },
  {
    title: "Activity",
    entries: [
      { path: "/operations", text: "Operations", icon: <ListTodo /> },
      { path: "/events", text: "Events", icon: <Activity /> },
      { path: "/audit", text: "Audit log", icon: <ScrollText />, role: "admin" },
    ],
  },
  {
    title: "Access",
    entries: [
      { path: "/users", text: "Users", icon: <Users />, role: "admin" },
      { path: "/tokens", text: "API tokens", icon: <KeyRound /> },
    ],
  },
];
