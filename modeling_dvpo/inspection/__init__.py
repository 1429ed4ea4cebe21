"""What a critic expects along responses, to be looked at: an HTML page, and figures for papers."""

from modeling_dvpo.inspection.figure import plot_responses
from modeling_dvpo.inspection.page import Page, inspect_page

__all__ = ["Page", "inspect_page", "plot_responses"]
