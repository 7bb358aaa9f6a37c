export interface Toast {
  id: number;
  text: string;
  tone: "good" | "bad";
}

export function Toasts(props: { toasts: Toast[]; drop: (id: number) => void }) {
  return (
    <div class="toasts" role="status" aria-live="polite">
      {props.toasts.map((toast) => (
        <div key={toast.id} class={`toast ${toast.tone}`}>
          <span>{toast.text}</span>
          <button type="button" class="button quiet small" aria-label="Close this message" onClick={() => props.drop(toast.id)}>×</button>
        </div>
      ))}
    </div>
  );
}
