import { Compass } from "lucide-react";
import type { Role } from "../api/types";
import { Link } from "../lib/router";
import { Page } from "../ui/page";
import { Empty } from "../ui/states";

export function NotFoundPage({ role }: { role?: Role }) {
  return (
    <Page title={role ? "Not for this account" : "Not found"}>
      <Empty
        icon={<Compass aria-hidden="true" />}
        title={role ? `This page needs the role ${role}` : "There is nothing at this address"}
        actions={
          <Link className="btn primary" href="/containers">
            To the containers
          </Link>
        }
      >
        {role ? "An admin can give it to you." : "It may have been removed, or the link is not right."}
      </Empty>
    </Page>
  );
}
