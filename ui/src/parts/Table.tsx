import type { ComponentChildren } from "preact";

export interface Column<Row> {
  name: string;
  cell: (row: Row) => ComponentChildren;
  /** Right-aligned figures. */
  number?: boolean;
  /** The cell that names the row: its heading where rows are shown as cards. */
  title?: boolean;
}

/** A table that becomes one card per row on narrow screens. `caption` is for those who can't see its surroundings. */
export function Table<Row>(props: {
  columns: Column<Row>[];
  rows: Row[];
  id: (row: Row) => string;
  caption: string;
  rowClass?: (row: Row) => string;
}) {
  return (
    <div class="table-box">
      <table class="table cards">
        <caption class="unseen">{props.caption}</caption>
        <thead>
          <tr>
            {props.columns.map((column) => (
              <th key={column.name} scope="col" class={column.number ? "number" : ""}>{column.name}</th>
            ))}
          </tr>
        </thead>
        <tbody>
          {props.rows.map((row) => (
            <tr key={props.id(row)} class={props.rowClass?.(row) ?? ""}>
              {props.columns.map((column) => (
                <td key={column.name} data-label={column.name} class={[column.number ? "number" : "", column.title ? "title" : ""].join(" ").trim()}>
                  {column.cell(row)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
