import type { ButtonHTMLAttributes, ReactNode } from "react";

type Props = ButtonHTMLAttributes<HTMLButtonElement> & {
  variant?: "default" | "primary" | "danger" | "ghost";
  small?: boolean;
  /** Shows a spinner, and takes no further click. */
  busy?: boolean;
  icon?: ReactNode;
};

export function Button({ variant = "default", small, busy, icon, className = "", children, disabled, type = "button", ...rest }: Props) {
  const classes = ["btn", variant === "default" ? "" : variant, small ? "small" : "", className].filter(Boolean).join(" ");
  return (
    <button type={type} className={classes} disabled={disabled || busy} aria-busy={busy || undefined} {...rest}>
      {busy ? <span className="spinner" aria-hidden="true" /> : icon}
      {children}
    </button>
  );
}

/** A button that is only a sign; `label` says what it does. */
export function IconButton({ label, children, className = "", variant = "ghost", ...rest }: Omit<Props, "icon"> & { label: string }) {
  return (
    <Button variant={variant} className={`icon ${className}`} aria-label={label} title={label} {...rest}>
      {rest.busy ? null : children}
    </Button>
  );
}
