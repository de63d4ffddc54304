import { Component, lazy, type ReactNode, Suspense, useSyncExternalStore } from "react";
import { session } from "./api";
import type { Role } from "./api/types";
import { atLeast, useUser } from "./lib/data";
import { match, usePath } from "./lib/router";
import { AlertPage } from "./pages/alerts/alert";
import { ChannelsPage } from "./pages/alerts/channels";
import { AlertsPage } from "./pages/alerts/list";
import { RulesPage } from "./pages/alerts/rules";
import { SilencesPage } from "./pages/alerts/silences";
import { AuditPage } from "./pages/audit";
import { BackupPage } from "./pages/backups/backup";
import { ConfigPage } from "./pages/backups/config";
import { BackupsPage } from "./pages/backups/list";
import { ClusterPage } from "./pages/clusters/cluster";
import { ClustersPage } from "./pages/clusters/list";
import { ContainerPage } from "./pages/containers/container";
import { ContainersPage } from "./pages/containers/list";
import { EventsPage } from "./pages/events";
import { HealthPage } from "./pages/health/list";
import { ServerPage } from "./pages/health/server";
import { ImagesPage } from "./pages/images";
import { JobPage } from "./pages/jobs/job";
import { TaskPage } from "./pages/jobs/task";
import { LoginPage } from "./pages/login";
import { NetworksPage } from "./pages/networks";
import { NodesPage } from "./pages/nodes/list";
import { NodePage } from "./pages/nodes/node";
import { NotFoundPage } from "./pages/not-found";
import { OperationPage, OperationsPage } from "./pages/operations";
import { RegistriesPage } from "./pages/registries";
import { SettingsPage } from "./pages/settings";
import { TokensPage } from "./pages/tokens";
import { UsersPage } from "./pages/users";
import { VolumesPage } from "./pages/volumes";
import { Shell } from "./shell";
import { Failure, Loading } from "./ui/states";
import { Toasts } from "./ui/toast";

const CreatePage = lazy(() => import("./pages/containers/create"));
const BackupEditor = lazy(() => import("./pages/backups/editor"));
const ClusterEditor = lazy(() => import("./pages/clusters/editor"));
const JobEditor = lazy(() => import("./pages/jobs/editor"));

interface RouteRow {
  path: string;
  role?: Role;
  page: (params: Record<string, string>) => ReactNode;
}

const ROUTES: RouteRow[] = [
  { path: "", page: () => <ContainersPage /> },
  { path: "/containers", page: () => <ContainersPage /> },
  { path: "/containers/new", role: "operator", page: () => <CreatePage /> },
  { path: "/containers/:id", page: (p) => <ContainerPage key={p.id} id={p.id ?? ""} tab="overview" /> },
  { path: "/containers/:id/:tab", page: (p) => <ContainerPage key={p.id} id={p.id ?? ""} tab={p.tab ?? ""} /> },
  { path: "/clusters", page: () => <ClustersPage /> },
  { path: "/clusters/new", role: "operator", page: () => <ClusterEditor key="new" /> },
  { path: "/clusters/:id", page: (p) => <ClusterPage key={p.id} id={p.id ?? ""} tab="overview" /> },
  { path: "/clusters/:id/edit", role: "operator", page: (p) => <ClusterEditor key={p.id} id={p.id ?? ""} /> },
  { path: "/clusters/:id/:tab", page: (p) => <ClusterPage key={p.id} id={p.id ?? ""} tab={p.tab ?? ""} /> },
  { path: "/clusters/:id/jobs/new", role: "operator", page: (p) => <JobEditor key={p.id} cluster={p.id ?? ""} /> },
  { path: "/clusters/:id/jobs/:job", page: (p) => <JobPage key={p.job} cluster={p.id ?? ""} id={p.job ?? ""} /> },
  {
    path: "/clusters/:id/jobs/:job/tasks/:task",
    page: (p) => <TaskPage key={`${p.job}/${p.task}`} cluster={p.id ?? ""} job={p.job ?? ""} task={p.task ?? ""} />,
  },
  { path: "/backups", page: () => <BackupsPage /> },
  { path: "/backups/new", role: "operator", page: () => <BackupEditor key="new" /> },
  { path: "/backups/configs/:id", page: (p) => <ConfigPage key={p.id} id={p.id ?? ""} /> },
  { path: "/backups/configs/:id/edit", role: "operator", page: (p) => <BackupEditor key={p.id} id={p.id ?? ""} /> },
  { path: "/backups/:id", page: (p) => <BackupPage key={p.id} id={p.id ?? ""} tab="overview" /> },
  { path: "/backups/:id/:tab", page: (p) => <BackupPage key={p.id} id={p.id ?? ""} tab={p.tab ?? ""} /> },
  { path: "/images", page: () => <ImagesPage /> },
  { path: "/volumes", page: () => <VolumesPage /> },
  { path: "/networks", page: () => <NetworksPage /> },
  { path: "/nodes", page: () => <NodesPage /> },
  { path: "/nodes/:id", page: (p) => <NodePage key={p.id} id={p.id ?? ""} tab="overview" /> },
  { path: "/nodes/:id/:tab", page: (p) => <NodePage key={p.id} id={p.id ?? ""} tab={p.tab ?? ""} /> },
  { path: "/health", page: () => <HealthPage /> },
  { path: "/health/:id", page: (p) => <ServerPage key={p.id} id={p.id ?? ""} /> },
  { path: "/alerts", page: () => <AlertsPage /> },
  { path: "/alerts/rules", page: () => <RulesPage /> },
  { path: "/alerts/channels", page: () => <ChannelsPage /> },
  { path: "/alerts/silences", page: () => <SilencesPage /> },
  { path: "/alerts/:id", page: (p) => <AlertPage key={p.id} id={p.id ?? ""} /> },
  { path: "/registries", page: () => <RegistriesPage /> },
  { path: "/operations", page: () => <OperationsPage /> },
  { path: "/operations/:id", page: (p) => <OperationPage key={p.id} id={p.id ?? ""} /> },
  { path: "/events", page: () => <EventsPage /> },
  { path: "/users", role: "admin", page: () => <UsersPage /> },
  { path: "/tokens", page: () => <TokensPage /> },
  { path: "/audit", role: "admin", page: () => <AuditPage /> },
  { path: "/settings", page: () => <SettingsPage /> },
];

function Routed() {
  const path = usePath();
  const { role } = useUser();
  for (const route of ROUTES) {
    const params = match(route.path, path);
    if (!params) continue;
    if (route.role && !atLeast(role, route.role)) return <NotFoundPage role={route.role} />;
    return route.page(params);
  }
  return <NotFoundPage />;
}

/** A fault in a page must not take the others with it. Another address tries again. */
class Guard extends Component<{ path: string; children: ReactNode }, { error: unknown; path: string }> {
  override state = { error: null as unknown, path: this.props.path };
  static getDerivedStateFromError(error: unknown) {
    return { error };
  }
  static getDerivedStateFromProps(props: { path: string }, state: { error: unknown; path: string }) {
    return props.path === state.path ? null : { error: null, path: props.path };
  }
  override render() {
    if (this.state.error === null) return this.props.children;
    return (
      <div className="page">
        <header className="page-head">
          <h1>This page failed</h1>
        </header>
        <Failure error={this.state.error} retry={() => this.setState({ error: null })} />
      </div>
    );
  }
}

export function App() {
  const state = useSyncExternalStore(session.subscribe, () => session.state);
  const path = usePath();
  let content: ReactNode;
  if (state.phase === "signed-in") {
    content = (
      <Shell>
        <Guard path={path}>
          <Suspense fallback={<Loading what="the page" />}>
            <Routed />
          </Suspense>
        </Guard>
      </Shell>
    );
  } else if (state.phase === "signed-out") {
    content = <LoginPage notice={state.notice} />;
  } else if (state.phase === "unreachable") {
    content = (
      <div className="splash">
        <div className="login-box">
          <Failure error={state.error} retry={() => void session.start()} />
        </div>
      </div>
    );
  } else {
    content = (
      <div className="splash" role="status" aria-label="Signing in">
        <span className="spinner large" aria-hidden="true" />
      </div>
    );
  }
  return (
    <>
      {content}
      <Toasts />
    </>
  );
}
