import { Search } from "lucide-react";
import { useRef } from "react";
import { useHotkey } from "../lib/hooks";

/** A search field that `/` leads to and Escape empties. */
export function SearchBox(props: {
  value: string;
  onValue: (value: string) => void;
  label: string;
  placeholder?: string;
  onEnter?: (back: boolean) => void;
}) {
  const input = useRef<HTMLInputElement>(null);
  useHotkey("/", (event) => {
    event.preventDefault();
    input.current?.focus();
    input.current?.select();
  });
  return (
    <div className="search">
      <Search aria-hidden="true" />
      <input
        ref={input}
        type="search"
        className="input"
        aria-label={props.label}
        aria-keyshortcuts="/"
        placeholder={props.placeholder ?? props.label}
        autoComplete="off"
        spellCheck={false}
        value={props.value}
        onChange={(e) => props.onValue(e.target.value)}
        onKeyDown={(e) => {
          if (e.key === "Escape") {
            if (props.value) props.onValue("");
            else input.current?.blur();
          } else if (e.key === "Enter") {
            props.onEnter?.(e.shiftKey);
          }
        }}
      />
      {!props.value && <kbd>/</kbd>}
    </div>
  );
}
