import type { Problem } from "../../api/types.ts";

/** Every problem with its place and what to do; `point` shows a line of the text that was checked. */
export function Problems(props: { of: Problem[]; point?: (line: number) => void }) {
  return (
    <ul class="problems" data-testid="problems">
      {props.of.map((problem, place) => (
        <li key={place}>
          <p class="where">
            <code>{problem.path || "the whole file"}</code>
            {typeof problem.line === "number" && <Line number={problem.line} {...(props.point ? { point: props.point } : {})} />}
          </p>
          <p>{problem.message}</p>
          {problem.suggestion && <p class="muted">{problem.suggestion}</p>}
        </li>
      ))}
    </ul>
  );
}

function Line(props: { number: number; point?: (line: number) => void }) {
  const { number, point } = props;
  if (point === undefined) return <span class="small muted">line {number}</span>;
  return <button type="button" class="button small" onClick={() => point(number)}>line {number}</button>;
}
