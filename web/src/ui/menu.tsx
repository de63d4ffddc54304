import { EllipsisVertical } from "lucide-react";
import { type KeyboardEvent, type ReactNode, useEffect, useId, useLayoutEffect, useRef, useState } from "react";
import { createPortal } from "react-dom";
import { Link } from "../lib/router";
import { IconButton } from "./button";

export type MenuItem =
  | { label: string; icon?: ReactNode; onSelect: () => void; danger?: boolean; disabled?: boolean }
  | { label: string; icon?: ReactNode; href: string }
  | "line"
  | { note: string };

/** A button that opens a list of actions; arrows move, Escape closes. */
export function Menu(props: {
  label: string;
  items: MenuItem[];
  small?: boolean;
  trigger?: (trigger: {
    onClick: () => void;
    "aria-expanded": boolean;
    "aria-haspopup": "menu";
    "aria-controls": string;
    ref: (e: HTMLButtonElement | null) => void;
  }) => ReactNode;
}) {
  const [open, setOpen] = useState(false);
  const button = useRef<HTMLButtonElement | null>(null);
  const id = useId();
  const trigger = {
    onClick: () => setOpen((o) => !o),
    "aria-expanded": open,
    "aria-haspopup": "menu" as const,
    "aria-controls": id,
    ref: (e: HTMLButtonElement | null) => {
      button.current = e;
    },
  };
  return (
    <>
      {props.trigger ? (
        props.trigger(trigger)
      ) : (
        <IconButton label={props.label} small={props.small ?? false} {...trigger}>
          <EllipsisVertical />
        </IconButton>
      )}
      {open && (
        <MenuList
          id={id}
          label={props.label}
          anchor={button.current}
          items={props.items}
          close={(focus) => {
            setOpen(false);
            if (focus) button.current?.focus();
          }}
        />
      )}
    </>
  );
}

function MenuList(props: { id: string; label: string; anchor: HTMLElement | null; items: MenuItem[]; close: (focus: boolean) => void }) {
  const list = useRef<HTMLDivElement>(null);
  const [place, setPlace] = useState<{ top: number; left: number } | null>(null);
  const { anchor, close } = props;

  useLayoutEffect(() => {
    const menu = list.current;
    if (!menu || !anchor) return;
    // In the top layer, so that it also lies over an open dialog.
    menu.showPopover?.();
    const a = anchor.getBoundingClientRect();
    const { offsetWidth: w, offsetHeight: h } = menu;
    const left = Math.max(8, Math.min(a.right - w, innerWidth - w - 8));
    const below = a.bottom + 4;
    setPlace({ left, top: below + h > innerHeight - 8 ? Math.max(8, a.top - h - 4) : below });
  }, [anchor]);
  // Only what can be seen takes the focus, so not before it has its place.
  useEffect(() => {
    if (place) list.current?.querySelector<HTMLElement>("button:not(:disabled), a")?.focus();
  }, [place]);

  useEffect(() => {
    const outside = (event: Event) => {
      const target = event.target as Node;
      if (!list.current?.contains(target) && !anchor?.contains(target)) close(false);
    };
    const gone = () => close(false);
    document.addEventListener("pointerdown", outside);
    window.addEventListener("resize", gone);
    document.addEventListener("scroll", gone, true);
    return () => {
      document.removeEventListener("pointerdown", outside);
      window.removeEventListener("resize", gone);
      document.removeEventListener("scroll", gone, true);
    };
  }, [anchor, close]);

  const keys = (event: KeyboardEvent) => {
    const items = [...(list.current?.querySelectorAll<HTMLElement>("button:not(:disabled), a") ?? [])];
    const at = items.indexOf(document.activeElement as HTMLElement);
    const go = (index: number) => items[(index + items.length) % items.length]?.focus();
    if (event.key === "ArrowDown") go(at + 1);
    else if (event.key === "ArrowUp") go(at - 1);
    else if (event.key === "Home") go(0);
    else if (event.key === "End") go(-1);
    else if (event.key === "Escape") close(true);
    else if (event.key === "Tab") close(true);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };

  return createPortal(
    <div
      ref={list}
      id={props.id}
      role="menu"
      aria-label={props.label}
      className="menu"
      popover="manual"
      style={place ? { top: place.top, left: place.left } : { visibility: "hidden" }}
      onKeyDown={keys}
    >
      {props.items.map((item, index) => {
        if (item === "line") {
          return <hr key={`line-${index}`} />;
        }
        if ("note" in item) {
          return (
            <div key={item.note} className="menu-note">
              {item.note}
            </div>
          );
        }
        if ("href" in item) {
          return (
            <Link key={item.label} role="menuitem" href={item.href} onClick={() => close(false)}>
              {item.icon}
              {item.label}
            </Link>
          );
        }
        return (
          <button
            key={item.label}
            type="button"
            role="menuitem"
            className={item.danger ? "danger" : ""}
            disabled={item.disabled}
            onClick={() => {
              close(true);
              item.onSelect();
            }}
          >
            {item.icon}
            {item.label}
          </button>
        );
      })}
    </div>,
    document.body,
  );
}
