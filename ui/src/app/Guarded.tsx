import type { ComponentChildren } from "preact";
import { useErrorBoundary } from "preact/hooks";
import { Empty } from "../parts/states.tsx";

/** A view that can not be drawn says so, and the frame around it stays; without this nothing would be there at all. */
export function Guarded(props: { children: ComponentChildren }) {
  const [error, again] = useErrorBoundary((thrown: unknown) => console.error(thrown));
  if (error === undefined) return <>{props.children}</>;
  return (
    <Empty title="This view can't be drawn">
      It is a fault of the page, not of what it shows: {error instanceof Error ? error.message : String(error)}{" "}
      <button type="button" class="button small" onClick={again}>Try again</button>
    </Empty>
  );
}
