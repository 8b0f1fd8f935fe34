"""Images in folders of classes, written in each form that a classification data set is read from."""

import csv
import json
import shutil
from functools import partial

from lk_downstream.data import ClassFolder, ClassParquet, ClassTable


def rows_of(root):
    """Path and class of every image of the split val."""
    return [(path.relative_to(root / "val"), path.parent.name) for path in sorted(root.glob("val/*/*"))]


def folders(root, target):
    """As they are."""
    shutil.copytree(root, target)
    return partial(ClassFolder, root=str(target))


def packed(form, suffix):
    """Below the root of an archive."""

    def write(root, target):
        shutil.make_archive(str(target), form, root)
        return partial(ClassFolder, root=f"{target}{suffix}")

    return write


def table(separator=",", numbers=False):
    """A CSV file of files and classes, or of their numbers."""

    def write(root, target):
        shutil.copytree(root / "val", target / "all")
        kinds = sorted({kind for _, kind in rows_of(root)})
        with (target / "val.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter=separator)
            writer.writerow(("file_name", "label"))
            writer.writerows((path.as_posix(), kinds.index(kind) if numbers else kind) for path, kind in rows_of(root))
        return partial(ClassTable, root=str(target), images="all", classes=kinds if numbers else None)

    return write


def lines(root, target):
    """A Hugging Face image folder."""
    shutil.copytree(root / "val", target / "val")
    rows = [json.dumps({"file_name": path.as_posix(), "label": kind}) for path, kind in rows_of(root)]
    (target / "val/metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return partial(ClassTable, root=str(target), table="{split}/metadata.jsonl")


def parquet(root, target):
    """As Hugging Face's ``datasets`` writes it, with the names of the classes."""
    import pyarrow as arrow
    from pyarrow.parquet import write_table

    kinds = sorted({kind for _, kind in rows_of(root)})
    rows = rows_of(root)
    columns = {
        "image": [{"bytes": (root / "val" / path).read_bytes(), "path": path.as_posix()} for path, _ in rows],
        "label": [kinds.index(kind) for _, kind in rows],
    }
    features = {"image": {"_type": "Image"}, "label": {"names": kinds, "_type": "ClassLabel"}}
    made = arrow.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    target.mkdir(parents=True)
    write_table(made, target / "val.parquet", row_group_size=10)
    return partial(ClassParquet, root=str(target))


# Each writes to a place that is not there yet, and gives what makes the data set of the split val.
FORMS = {
    "folders": folders,
    "zip archive": packed("zip", ".zip"),
    "tar": packed("tar", ".tar"),
    "CSV of names": table(),
    "CSV of numbers": table(";", numbers=True),
    "metadata.jsonl": lines,
    "Parquet": parquet,
}
