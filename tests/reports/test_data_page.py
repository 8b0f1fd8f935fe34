"""The page of a data set."""

import numpy as np
from test_page import EVIL, Seen

from lk_downstream.reports.data_page import Split, write_data_page

COLUMNS = ("class", "images", "share")


def test_splits_stand_beside_each_other(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1500, 2500, 3)).astype(np.uint8)
    sizes, rows = np.array([[20, 30], [40, 30]]), [("b", 2, 0.5), (EVIL, 1, 0.5)]
    train = Split(EVIL, 9, 4, sizes, "20 to 40", COLUMNS, [(EVIL, 3, 0.75)], "images", [EVIL], [EVIL])
    val = Split("val", 5, 5, sizes[:0], "", COLUMNS, rows, "images", [], [], noise)
    text = write_data_page(tmp_path / "a.html", EVIL, [train, val], [f"both have {EVIL}"]).read_text(encoding="utf-8")
    seen = Seen(text)
    assert list(seen.dangers()) == []
    cells = [text.strip() for text in seen.texts if text.strip()]
    start = cells.index("images in each split")
    assert cells[start + 1 : start + 10] == ["class", EVIL, "val", EVIL, "3", "1", "b", "0", "2"]
    assert f"both have {EVIL}\n{EVIL}: {EVIL}\n{EVIL}: {EVIL}" in cells
    assert "sizes of the images that were read" in cells
    assert len(text) < 3_000_000  # the sheet was made coarser
