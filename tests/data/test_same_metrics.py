"""One network on real data in several forms: the same metrics, to the last digit."""

import pytest
from same_metrics import SETS, SHARED, from_every_form, same_digits

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="none of the real data")
# What holds of the items of all forms is tested beside; here they pass through the loaders, the task and its metric.
FORMS = {
    "CamVid": ("grey PNG", "Parquet", "COCO panoptic"),
    "BCCD": ("COCO", "as_cvat", "yolo boxes", "voc"),
    "hymenoptera": ("folders", "tar", "CSV of numbers", "Parquet"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SETS)
def test_metrics_are_the_same(tmp_path, name):
    pytest.importorskip("pyarrow")
    found = from_every_form(SETS[name], tmp_path, 2, 0, FORMS[name])
    first = found[FORMS[name][0]]
    assert set(found) == set(FORMS[name])
    assert len(first) > 3
    assert [form for form, values in found.items() if not same_digits(values, first)] == []
