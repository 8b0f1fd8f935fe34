"""Images with label maps, written in each form that a segmentation data set is read from."""

import io
import json
import shutil
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image

from lk_downstream.data import CocoPanoptic, SegmentationFolder, SegmentationParquet
from lk_downstream.data.classes import default_palette


class Samples(NamedTuple):
    """Images uint8 (H, W, 3) and label maps uint8 (H, W), 255 for unlabelled pixels, by name; and the classes."""

    images: dict[str, np.ndarray]
    maps: dict[str, np.ndarray]
    classes: list[str]

    @property
    def colours(self):
        """A colour for each value of the label maps."""
        palette = default_palette(len(self.classes))
        return np.array([*palette, *[(0, 0, 0)] * (256 - len(palette))], np.uint8)


def write_images(samples, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in samples.images.items():
        Image.fromarray(image).save(folder / f"{name}.png")


def masks(pattern, change=lambda mask, samples: mask, options=lambda samples: {}):
    """Writes masks as files of a pattern, with changed values, which options undo."""

    def write(samples, root):
        write_images(samples, root / "images/val")
        (root / "annotations/val").mkdir(parents=True)
        for name, mask in samples.maps.items():
            path, changed = root / "annotations/val" / pattern.format(name), change(mask, samples)
            if path.suffix == ".npy":
                np.save(path, changed)
            else:
                Image.fromarray(changed).save(path)
        return partial(SegmentationFolder, root=str(root), classes=samples.classes, **options(samples))

    return write


def runs(mask):
    """Runs of equal pixels of a row: row, first and last column, value."""
    for row, values in enumerate(mask.tolist()):
        first = 0
        for column, value in enumerate(values):
            if column + 1 == len(values) or values[column + 1] != value:
                yield row, first, column, value
                first = column + 1


def labelme(samples, root):
    """Each run of pixels is a rectangle, so that nothing is lost."""
    write_images(samples, root / "images/val")
    (root / "annotations/val").mkdir(parents=True)
    for name, mask in samples.maps.items():
        shapes = [
            {"label": samples.classes[value], "shape_type": "rectangle", "points": [[first, row], [last, row]]}
            for row, first, last, value in runs(mask)
            if value != 255
        ]
        content = {"imageHeight": mask.shape[0], "imageWidth": mask.shape[1], "shapes": shapes}
        (root / f"annotations/val/{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return partial(SegmentationFolder, root=str(root), classes=samples.classes, mask_suffix=".json")


def panoptic(samples, root):
    """One segment for each class of an image, with ids beyond a byte."""
    content = {"images": [], "annotations": []}
    content["categories"] = [{"id": 10 + number, "name": name} for number, name in enumerate(samples.classes)]
    write_images(samples, root / "val2017")
    (root / "annotations/panoptic_val2017").mkdir(parents=True)
    for number, (name, mask) in enumerate(samples.maps.items()):
        ids = np.where(mask == 255, 0, 777 * (mask.astype(int) + 1))
        pixels = np.stack([ids % 256, ids // 256, np.zeros_like(ids)], -1).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"annotations/panoptic_val2017/{name}.png")
        content["images"].append({"id": number, "file_name": f"{name}.png"})
        present = [int(value) for value in np.unique(mask) if value != 255]
        segments = [{"id": 777 * (value + 1), "category_id": 10 + value} for value in present]
        content["annotations"].append({"image_id": number, "file_name": f"{name}.png", "segments_info": segments})
    (root / "annotations/panoptic_val2017.json").write_text(json.dumps(content), encoding="utf-8")
    return partial(CocoPanoptic, root=str(root))


def archive(samples, root):
    """The plain form in a zip archive."""
    masks("{}.png")(samples, root / "all")
    shutil.make_archive(str(root / "all"), "zip", root / "all")
    shutil.rmtree(root / "all")
    return partial(SegmentationFolder, root=str(root / "all.zip"), classes=samples.classes)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def parquet(samples, root):
    """As Hugging Face's segmentation sets."""
    import pyarrow as arrow
    from pyarrow.parquet import write_table

    root.mkdir(parents=True)
    columns = {
        "image": [{"bytes": png(image), "path": f"{name}.png"} for name, image in samples.images.items()],
        "annotation": [{"bytes": png(mask), "path": None} for mask in samples.maps.values()],
    }
    write_table(arrow.table(columns), root / "val.parquet", row_group_size=10)
    return partial(SegmentationParquet, root=str(root), classes=samples.classes)


# Each writes below a folder that is not there yet, and gives what makes the data set of the split val.
FORMS = {
    "grey PNG": masks("{}.png"),
    "zip archive": archive,
    "Parquet": parquet,
    "RGB colours": masks(
        "{}.png",
        lambda mask, samples: samples.colours[mask],
        lambda samples: {
            "mask_colours": [*default_palette(len(samples.classes)), (0, 0, 0)],
            "label_map": {len(samples.classes): 255},
        },
    ),
    "NumPy array": masks("{}.npy", lambda mask, samples: mask.astype(np.int64)),
    "TIFF, suffix": masks("{}_gt.tif", options=lambda samples: {"mask_suffix": "_gt.tif"}),
    "16-bit PNG": masks("{}.png", lambda mask, samples: mask.astype(np.uint16)),
    "counted from 1": masks(
        "{}.png",
        lambda mask, samples: np.where(mask == 255, 0, mask + 1).astype(np.uint8),
        lambda samples: {"reduce_zero_label": True},
    ),
    "LabelMe": labelme,
    "COCO panoptic": panoptic,
}
