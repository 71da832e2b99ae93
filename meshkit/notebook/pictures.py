"""A matplotlib figure that shows itself, and is evidence by that."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any, Final

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from meshkit.display import Shown, file_name

CSS_DPI: Final = 96


class Picture(Shown):
    """A matplotlib figure as a PNG with a text alternative, its title unless given; drawn once, then closed.

    Of a figure in which nothing is drawn only the title is shown.
    """

    def __init__(self, figure: Figure, name: str, alt: str = "") -> None:
        self.name = file_name(name)
        self.alt = alt or " ".join(figure.get_suptitle().split()) or name
        self.width = round(figure.get_figwidth() * CSS_DPI)
        self.png = ""
        if figure.get_axes():
            png = BytesIO()
            figure.savefig(png, format="png", dpi=1.5 * CSS_DPI)
            self.png = base64.b64encode(png.getvalue()).decode()
        plt.close(figure)

    def bundle(self) -> dict[str, Any]:
        """Return the picture, and its title as text."""
        if not self.png:
            return {"text/plain": self.alt}
        return {"text/plain": f"[figure {self.name}: {self.alt}]", "image/png": self.png}

    def metadata(self) -> dict[str, Any]:
        """Return its name, its title and the width at which it is to be shown."""
        about = {"figure": self.name, "alt": self.alt, "width": self.width}
        return {"meshkit": about, "image/png": {"width": self.width, "alt": self.alt}} if self.png else {}
