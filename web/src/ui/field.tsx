import {
  type InputHTMLAttributes,
  type ReactNode,
  type SelectHTMLAttributes,
  type TextareaHTMLAttributes,
  useEffect,
  useId,
  useRef,
} from "react";

interface Described {
  id: string;
  "aria-describedby": string | undefined;
  "aria-invalid": true | undefined;
}

/** A label, its control, and what is to be said of it. */
export function Field(props: {
  label: ReactNode;
  hint?: ReactNode;
  problem?: string | undefined;
  optional?: boolean;
  className?: string;
  children: (described: Described) => ReactNode;
}) {
  const id = useId();
  const note = props.problem || props.hint ? `${id}-note` : undefined;
  return (
    <div className={`field ${props.className ?? ""}`}>
      <label htmlFor={id}>
        {props.label}
        {props.optional && <span className="optional"> · optional</span>}
      </label>
      {props.children({ id, "aria-describedby": note, "aria-invalid": props.problem ? true : undefined })}
      {props.problem ? (
        <p className="problem" id={note} role="alert">
          {props.problem}
        </p>
      ) : (
        props.hint && (
          <p className="hint" id={note}>
            {props.hint}
          </p>
        )
      )}
    </div>
  );
}

/** A control in a row of many, whose label only a screen reader needs. */
export function Cell(props: {
  label: string;
  problem?: string | undefined;
  children: (described: Described & { "aria-label": string }) => ReactNode;
}) {
  const id = useId();
  const note = props.problem ? `${id}-note` : undefined;
  return (
    <div>
      {props.children({ id, "aria-label": props.label, "aria-describedby": note, "aria-invalid": props.problem ? true : undefined })}
      {props.problem && (
        <p className="problem" id={note} role="alert">
          {props.problem}
        </p>
      )}
    </div>
  );
}

type InputProps = Omit<InputHTMLAttributes<HTMLInputElement>, "onChange"> & { onValue?: (value: string) => void; mono?: boolean };
export function Input({ onValue, mono, className = "", ...rest }: InputProps) {
  return (
    <input
      className={`input ${mono ? "mono" : ""} ${className}`}
      autoComplete="off"
      spellCheck={false}
      onChange={(e) => onValue?.(e.target.value)}
      {...rest}
    />
  );
}

/** One line of text with its label: what most fields are. */
export function TextField(props: {
  label: ReactNode;
  value: string;
  onValue: (value: string) => void;
  problem?: string | undefined;
  hint?: ReactNode;
  optional?: boolean;
  placeholder?: string | undefined;
  mono?: boolean;
  numeric?: boolean;
  /** Its unit. */
  suffix?: string | undefined;
  name?: string;
  type?: "text" | "email" | "password";
  maxLength?: number;
  disabled?: boolean;
  /** Values that are offered, and need not be taken. */
  list?: string;
}) {
  const { label, hint, problem, optional, suffix, numeric, mono, ...input } = props;
  return (
    <Field label={label} hint={hint} problem={problem} optional={optional ?? false}>
      {(d) => {
        const control = <Input {...d} {...input} mono={mono ?? false} inputMode={numeric ? "numeric" : undefined} />;
        if (!suffix) return control;
        return (
          <div className="with-suffix">
            {control}
            <span className="suffix">{suffix}</span>
          </div>
        );
      }}
    </Field>
  );
}

type TextareaProps = Omit<TextareaHTMLAttributes<HTMLTextAreaElement>, "onChange"> & { onValue?: (value: string) => void };
export function Textarea({ onValue, className = "", ...rest }: TextareaProps) {
  return <textarea className={`textarea ${className}`} spellCheck={false} onChange={(e) => onValue?.(e.target.value)} {...rest} />;
}

type SelectProps<T extends string> = Omit<SelectHTMLAttributes<HTMLSelectElement>, "onChange" | "value"> & {
  value: T;
  onValue: (value: T) => void;
  options: readonly (readonly [T, string])[];
};
export function Select<T extends string>({ value, onValue, options, className = "", ...rest }: SelectProps<T>) {
  return (
    <select className={`select ${className}`} value={value} onChange={(e) => onValue(e.target.value as T)} {...rest}>
      {options.map(([key, text]) => (
        <option key={key} value={key}>
          {text}
        </option>
      ))}
    </select>
  );
}

export function Check(props: {
  label: ReactNode;
  hint?: ReactNode;
  checked: boolean;
  /** Some, but not all, of what it stands for. */
  partly?: boolean;
  onChecked: (checked: boolean) => void;
  hideLabel?: boolean;
  disabled?: boolean;
}) {
  const box = useRef<HTMLInputElement>(null);
  useEffect(() => {
    if (box.current) box.current.indeterminate = props.partly ?? false;
  }, [props.partly]);
  return (
    <label className="check">
      <input
        ref={box}
        type="checkbox"
        checked={props.checked}
        disabled={props.disabled}
        onChange={(e) => props.onChecked(e.target.checked)}
      />
      <span className={props.hideLabel ? "sr-only" : ""}>
        {props.label}
        {props.hint && <span className="hint">{props.hint}</span>}
      </span>
    </label>
  );
}

/** One of a few, side by side. */
export function Segmented<T extends string>(props: {
  label: string;
  value: T;
  options: readonly (readonly [T, string])[];
  onValue: (value: T) => void;
}) {
  return (
    <fieldset className="segmented" aria-label={props.label}>
      {props.options.map(([key, text]) => (
        <button key={key} type="button" aria-pressed={key === props.value} onClick={() => props.onValue(key)}>
          {text}
        </button>
      ))}
    </fieldset>
  );
}
