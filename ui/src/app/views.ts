// Every view and its address. `shown` ones are in the navigation; `under` names the one that is marked there instead.
import type { ComponentType } from "preact";
import Audit from "../views/audit/index.tsx";
import Config from "../views/config/index.tsx";
import Health from "../views/health/index.tsx";
import Overview from "../views/overview/index.tsx";
import RequestsView from "../views/requests/index.tsx";
import Rollouts from "../views/rollouts/index.tsx";
import RouteView from "../views/route/index.tsx";
import type { Place } from "./router.ts";

export interface View {
  at: string;
  name: string;
  show: ComponentType;
  shown: boolean;
  under?: string;
}

export const VIEWS: readonly View[] = [
  { at: "", name: "Overview", show: Overview, shown: true },
  { at: "rollouts", name: "Rollouts", show: Rollouts, shown: true },
  { at: "requests", name: "Requests", show: RequestsView, shown: true },
  { at: "config", name: "Configuration", show: Config, shown: true },
  { at: "health", name: "Health", show: Health, shown: true },
  { at: "audit", name: "Audit", show: Audit, shown: true },
  { at: "routes", name: "Route", show: RouteView, shown: false, under: "" },
];

const DEEP = new Set(["rollouts", "requests"]);

/** The view of a place: `rollouts` and `requests` have one item below them, `routes` always. */
export function viewOf(place: Place): View | null {
  const [at = "", item, ...rest] = place.path;
  const view = VIEWS.find((one) => one.at === at) ?? null;
  if (view === null || rest.length > 0) return null;
  if (at === "routes") return item === undefined ? null : view;
  return item === undefined || DEEP.has(at) ? view : null;
}
