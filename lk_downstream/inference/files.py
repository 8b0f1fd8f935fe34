"""Results of many images as files of a folder: what ``lk-downstream predict`` writes, on one process or several."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lk_downstream.inference.results import Classification, ClassMap, Detections, Result
from lk_downstream.machine import shown_path
from lk_downstream.reports.files import write_json, write_table
from lk_downstream.reports.plotting import spared


class Files(ABC):
    """Writes results as they come, and what is about all of them at the end.

    Args:
        folder: Where the files lie.
        mark: Behind the names of files that each process writes for itself.
    """

    def __init__(self, folder: Path, mark: str = ""):
        self.folder, self.mark = folder, mark
        self.count = 0

    @abstractmethod
    def add(self, result: Result, image_id: int = 0, file_name: str = "") -> None:
        """Write the files of an image.

        Args:
            result: Of the image; its name is that of its files.
            image_id: Its number in files of COCO's format.
            file_name: Its path below the folder of images, likewise.
        """

    def kept(self) -> Any:  # noqa: B027
        """What the first process has to know of the results of this one."""

    def finish(self, parts: Sequence[Any]) -> None:  # noqa: B027
        """Write what is about all images, from what all processes have kept."""

    @abstractmethod
    def lines(self) -> Iterator[str]:
        """What was written and where it lies, for a console."""

    def _path(self, kind: str, name: str, suffix: str = ".png") -> Path:
        return self.folder / kind / f"{name}{suffix}"

    def _where(self, **paths: Path) -> Iterator[str]:
        return (f"{label.replace('_', ' '):<12} {shown_path(path)}" for label, path in paths.items())


class MaskFiles(Files):
    """``labels/NAME.png``, one 8-bit channel with the values of the data set's own masks, and ``overlays/NAME.png``."""

    overlays = True

    def add(self, result: ClassMap, image_id: int = 0, file_name: str = "") -> None:
        """See :meth:`Files.add`."""
        result.save(self._path("labels", result.name))
        if self.overlays:
            result.save(self._path("overlays", result.name), overlay=True)
        self.count += 1

    def lines(self) -> Iterator[str]:
        """See :meth:`Files.lines`."""
        yield f"{self.count} image{'s' * (self.count > 1)} predicted{' by this process' * bool(self.mark)}"
        places = {kind: self.folder / kind for kind in ("labels", "overlays")}
        yield from self._where(**{kind: path for kind, path in places.items() if path.is_dir()})


class ObjectFiles(Files):
    """``detections/NAME.json`` and ``images/NAME.png``; of all images ``results.KIND.json`` and ``images.json``."""

    score, most = 0.3, 100

    def __init__(self, folder: Path, mark: str = ""):
        super().__init__(folder, mark)
        self.images: list[dict[str, Any]] = []
        self.results: dict[str, list[dict[str, Any]]] = {"bbox": []}
        self.kinds: list[dict[str, Any]] = []

    def add(self, result: Detections, image_id: int = 0, file_name: str = "") -> None:
        """See :meth:`Files.add`."""
        rows = result.rows()
        write_json(self._path("detections", result.name, ".json"), rows)
        size = dict(zip(("height", "width"), result.size))
        self.images.append({"id": image_id, "file_name": file_name, **size})
        self.kinds = [{"id": number, "name": name} for number, name in zip(result.category_ids, result.classes)]
        if result.masks is not None:
            self.results.setdefault("segm", [])
        for kind, key in (("bbox", "segmentation"), ("segm", "bbox")):
            if kind in self.results:
                self.results[kind] += [{"image_id": image_id, **_without(row, "class", key)} for row in rows]
        with spared(f"images/{result.name}.png"):
            result.save(self._path("images", result.name), self.score, self.most)

    def kept(self) -> Any:
        """See :meth:`Files.kept`."""
        return self.images, self.results, self.kinds

    def finish(self, parts: Sequence[Any]) -> None:
        """See :meth:`Files.finish`."""
        self.images = sorted((image for images, _, _ in parts for image in images), key=lambda image: image["id"])
        self.count = len(self.images)
        kinds = next((kinds for _, _, kinds in parts if kinds), [])
        for kind in dict.fromkeys(kind for _, results, _ in parts for kind in results):
            rows = (row for _, results, _ in parts for row in results.get(kind, ()))
            self.results[kind] = sorted(rows, key=lambda row: row["image_id"])
        if self.count:
            content = {"images": self.images, "annotations": [], "categories": kinds}
            write_json(self.folder / "images.json", content)
            for kind, rows in self.results.items():
                write_json(self.folder / f"results.{kind}.json", rows)

    def lines(self) -> Iterator[str]:
        """See :meth:`Files.lines`."""
        yield f"{self.count} image{'s' * (self.count > 1)} predicted"
        names = {"bbox": "COCO_results", "segm": "of_masks"}
        results = {names[kind]: self.folder / f"results.{kind}.json" for kind in self.results}
        yield from self._where(detections=self.folder / "detections", images=self.folder / "images", **results)


class ClassFiles(Files):
    """``predictions.json``, a list of ``{"name", "classes", "scores"}``, best first, and ``predictions.csv``."""

    shown = 10

    def __init__(self, folder: Path, mark: str = ""):
        super().__init__(folder, mark)
        self.rows: list[dict[str, Any]] = []

    def add(self, result: Classification, image_id: int = 0, file_name: str = "") -> None:
        """See :meth:`Files.add`."""
        self.rows.append(result.to_dict())
        self.count += 1

    def kept(self) -> Any:
        """Nothing: each process writes its own share here, and all have come to the end when the first one speaks."""
        table, listing = self._paths()
        write_json(listing, self.rows)
        ranks = range(1, 1 + max((len(row["scores"]) for row in self.rows), default=0))
        heading = ["name", *(f"{what}{rank}" for rank in ranks for what in ("class", "score"))]
        pairs = ([row["name"], *itertools.chain(*zip(row["classes"], row["scores"]))] for row in self.rows)
        write_table(table, heading, pairs)

    def lines(self) -> Iterator[str]:
        """See :meth:`Files.lines`."""
        for row in self.rows[: self.shown]:
            line = f"{row['name']}: {row['classes'][0]} {row['scores'][0]:.2f}"
            yield line.encode("utf-8", "backslashreplace").decode()
        yield from self._where(**dict(zip(("table", "list"), self._paths())))

    def _paths(self) -> list[Path]:
        return [self.folder / f"predictions{self.mark}.{suffix}" for suffix in ("csv", "json")]


FILES: dict[str, type[Files]] = {
    "segmentation": MaskFiles,
    "detection": ObjectFiles,
    "classification": ClassFiles,
    "multilabel": ClassFiles,
}


def _without(row: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in keys}
