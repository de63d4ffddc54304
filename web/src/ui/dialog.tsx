import { X } from "lucide-react";
import { type FormEvent, type ReactNode, useEffect, useId, useRef } from "react";
import { createPortal } from "react-dom";
import { Button, IconButton } from "./button";
import { Failure } from "./states";

/**
 * A modal dialog: the browser keeps the focus inside, Escape closes it, and the focus returns to where it was.
 * With `onSubmit` its body is a form whose fields come first in `children`.
 */
export function Dialog(props: {
  title: ReactNode;
  onClose: () => void;
  children: ReactNode;
  footer?: ReactNode;
  wide?: boolean;
  onSubmit?: () => void;
  className?: string;
}) {
  const dialog = useRef<HTMLDialogElement>(null);
  const title = useId();
  useEffect(() => {
    const element = dialog.current;
    if (!element) return;
    const before = document.activeElement as HTMLElement | null;
    element.showModal();
    const first = element.querySelector<HTMLElement>("[data-autofocus], .dialog-body :is(input, select, textarea):not(:disabled)");
    first?.focus();
    return () => {
      element.close();
      before?.focus?.();
    };
  }, []);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    event.stopPropagation();
    props.onSubmit?.();
  };
  const inner = (
    <>
      <div className="dialog-body">{props.children}</div>
      {props.footer && <div className="dialog-foot">{props.footer}</div>}
    </>
  );
  return createPortal(
    <dialog
      ref={dialog}
      className={`${props.wide ? "wide" : ""} ${props.className ?? ""}`}
      aria-labelledby={title}
      onCancel={(e) => {
        e.preventDefault();
        props.onClose();
      }}
    >
      <div className="dialog-head">
        <h2 id={title}>{props.title}</h2>
        <IconButton label="Close" onClick={props.onClose}>
          <X />
        </IconButton>
      </div>
      {props.onSubmit ? (
        <form className="dialog-form" onSubmit={submit} noValidate>
          {inner}
        </form>
      ) : (
        <div className="dialog-form">{inner}</div>
      )}
    </dialog>,
    document.body,
  );
}

/** Asks before something is done that can't be undone. */
export function Confirm(props: {
  title: ReactNode;
  children?: ReactNode;
  action: string;
  danger?: boolean;
  busy: boolean;
  error: unknown;
  disabled?: boolean;
  onConfirm: () => void;
  onClose: () => void;
}) {
  return (
    <Dialog
      title={props.title}
      onClose={props.onClose}
      onSubmit={props.onConfirm}
      footer={
        <>
          <Button onClick={props.onClose}>Cancel</Button>
          <Button
            type="submit"
            variant={props.danger === false ? "primary" : "danger"}
            busy={props.busy}
            disabled={props.disabled}
            data-autofocus
          >
            {props.action}
          </Button>
        </>
      }
    >
      {props.children}
      {props.error !== null && props.error !== undefined && <Failure error={props.error} />}
    </Dialog>
  );
}
