"""Colours of the page and of its plots: one table, light and dark.

Plots are drawn in the light colours. In the page each becomes a CSS variable, so the same figure reads on both. No two
roles share a light colour, because the colour is what names the role in a drawn figure.
"""

from __future__ import annotations

PALETTE: dict[str, tuple[str, str]] = {
    "page": ("#f6f7f9", "#0e1217"),
    "surface": ("#ffffff", "#161b22"),
    "raised": ("#f1f3f6", "#1d242d"),
    "ink": ("#15202b", "#e7ebf0"),
    "muted": ("#56616e", "#9ba7b4"),
    "line": ("#dfe3e8", "#2c3540"),
    "grid": ("#e9ecf0", "#252d37"),
    "accent": ("#2450b4", "#8db2ff"),
    "accent-soft": ("#e9effc", "#1b2840"),
    "before": ("#6f7a87", "#8b97a5"),
    "floor": ("#b04a12", "#f2a36b"),
    "leaks": ("#a8281f", "#ff9d93"),
    "leaks-soft": ("#fcebe9", "#3a1c1b"),
    "at-floor": ("#0f6b62", "#6fd3c6"),
    "at-floor-soft": ("#e2f4f1", "#12302d"),
    "inconclusive": ("#855a00", "#f0c35e"),
    "inconclusive-soft": ("#fcf2da", "#352a10"),
    "series-2": ("#8a3ea8", "#d59af0"),
    "series-3": ("#0b7285", "#63cfe3"),
    "series-4": ("#4d7c0f", "#a9d867"),
    "series-5": ("#be185d", "#ff9ac4"),
}
"""Role → (light, dark)."""

LIGHT = {name: light for name, (light, _) in PALETTE.items()}
SERIES = tuple(LIGHT[name] for name in ("accent", "floor", "series-2", "series-3", "series-4", "series-5"))
"""Light colours for several lines in one plot."""

VARIABLE = {light: f"var(--{name})" for name, light in LIGHT.items()}
"""Light colour → CSS variable."""


def css_variables() -> str:
    """Return the palette as CSS: light, dark on dark screens, and light again on paper."""

    def block(which: int) -> str:
        return ":root{" + "".join(f"--{name}:{pair[which]};" for name, pair in PALETTE.items()) + "}"

    return f"{block(0)}\n@media screen and (prefers-color-scheme: dark){{{block(1)}}}"
