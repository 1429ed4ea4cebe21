"""What a critic expects along responses, to be looked at: an HTML page, and figures for papers."""

from .figure import plot_responses
from .page import Page, inspect_page

__all__ = ["Page", "inspect_page", "plot_responses"]
