"""From plain data (numbers, texts, NumPy arrays) to tables, plots, files and pages; no PyTorch, no Lightning.

See :mod:`lk_downstream.reports.page` for pages.
"""

from lk_downstream.reports.charts import Chart, Intervals, Line
from lk_downstream.reports.images import Images
from lk_downstream.reports.page import Section, page, write_page
from lk_downstream.reports.parts import Facts, Figure, Matrix, Number, Numbers, Table, Text

__all__ = [
    "Chart",
    "Facts",
    "Figure",
    "Images",
    "Intervals",
    "Line",
    "Matrix",
    "Number",
    "Numbers",
    "Section",
    "Table",
    "Text",
    "page",
    "write_page",
]
