"""Predict on images and videos by a model alone, without a config."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lk_downstream.commands.parsing import new_parser, parse
from lk_downstream.errors import InputError, some

if TYPE_CHECKING:
    from lk_downstream.inference.files import Files
    from lk_downstream.inference.model import Predictor

LARGE = 2**26  # pixels from which an image is predicted in tiles without being asked to
SECONDS = 15.0  # between two lines of progress, where the output is no terminal
DESCRIPTION = """Predict on images and videos by a model alone; no config is needed.

Example: runs/demo_segmentation/run_0 photos --output predicted
Of images that are larger than 2**26 pixels, or with --tile, a segmentation writes tiled TIFF files, whose unfinished
ones the same command goes on with. Of a video, NAME.mp4 is the video with what was found, NAME.jsonl a line a frame.
"""


def main(args: list[str]) -> int:
    """Predict by the words of a command line."""
    parser = new_parser("predict", DESCRIPTION)
    parser.add_argument("model", help="a run's folder, a checkpoint, an exported file, or hf-hub:user/name")
    parser.add_argument("images", help="an image, a video, or a folder or archive of images")
    parser.add_argument("--output", default="predictions", help="folder for the files")
    parser.add_argument("--device", type=str, help="such as cuda:1; the GPU if there is one, else the CPU")
    parser.add_argument("--tile", type=int, help="predict at the images' own size, in tiles of so many pixels a side")
    parser.add_argument("--overlap", type=int, help="of the tiles, in pixels")
    parser.add_argument(
        "--trusted", type=list[str], default=[], help="names of other classes that a checkpoint may use"
    )
    options = parse(parser, args)
    from lk_downstream import load
    from lk_downstream.data.video import is_video
    from lk_downstream.inference.files import FILES

    model = load(options.model, options.device, options.trusted)
    folder = Path(options.output)
    if is_video(Path(options.images)):
        return _video(model, Path(options.images), folder)
    files = FILES[model.task](folder)
    faults: list[str] = []
    try:
        _images(model, options.images, files, options.tile, options.overlap, faults)
    except KeyboardInterrupt:
        print("stopped; the same command goes on with a mask that is not finished", file=sys.stderr)
        return 130
    files.finish([files.kept()])
    for line in files.lines() if files.count else ():
        print(line)
    if faults:
        raise InputError(f"{len(faults)} of the images could not be read: {some(faults)}")
    return 0


def _images(
    model: Predictor, images: str, files: Files, tile: int | None, overlap: int | None, faults: list[str]
) -> None:
    from lk_downstream.data.image_folder import ImageFolder
    from lk_downstream.data.rows import is_large

    listed = ImageFolder(images, model.network.channels, model.preparation.value_range)
    in_tiles = {} if (tile, overlap) == (None, None) else {"tile": tile, "overlap": overlap}
    with _progress() as progress:
        for number, (path, name) in enumerate(zip(listed.files, listed.names), 1):
            large = model.task in ("segmentation", "detection") and is_large(path, LARGE)
            try:
                if model.task == "segmentation" and (large or in_tiles):
                    mask = files.folder / "labels" / f"{name}.tif"
                    mask.parent.mkdir(parents=True, exist_ok=True)
                    told = lambda done, total, name=name: progress(done, total, name)  # noqa: E731
                    model.write_mask(path, mask, tile, overlap, told)
                    files.count += 1
                else:
                    result = model.predict(
                        path, **(in_tiles or ({"tile": min(model.preparation.scale)} if large else {}))
                    )
                    result.name = name
                    about = {"image_id": number, "file_name": path.relative_to(listed.root).as_posix()}
                    files.add(result, **about)
            except InputError as error:
                print(f"left out: {error}", file=sys.stderr)
                faults.append(str(error))
            progress(number, len(listed.files), "images")


def _video(model: Predictor, path: Path, folder: Path) -> int:
    from lk_downstream.data.video import VideoFile, frame_rate

    drawn, listing = folder / f"{path.stem}.mp4", folder / f"{path.stem}.jsonl"
    video = VideoFile(drawn, frame_rate(path))
    part, count = listing.with_name(listing.name + ".part"), 0
    with open(part, "w", encoding="utf-8") as file, _progress() as progress:
        for count, result in enumerate(model.stream(path), 1):
            file.write(json.dumps(result.to_dict()) + "\n")
            video.add(result.draw())
            progress(count, None, "frames")
    part.replace(listing)
    video.close()
    print(f"{count} frames predicted\nvideo        {drawn}\nlist         {listing}")
    return 0


@contextmanager
def _progress() -> Iterator[Callable[[int, int | None, str], None]]:
    """What is told how many are done, of how many, of what: a bar for each kind in a terminal, else a line at times."""
    from rich.progress import Progress as Bars

    if sys.stdout.isatty():
        with Bars(transient=True) as bars:
            tasks: dict[str, int] = {}

            def show(done: int, total: int | None, what: str) -> None:
                if what not in tasks:
                    tasks[what] = bars.add_task(what, total=total)
                bars.update(tasks[what], completed=done, total=total, visible=done != total or what == "images")

            yield show
        return
    said = time.monotonic()

    def tell(done: int, total: int | None, what: str) -> None:
        nonlocal said
        if time.monotonic() - said > SECONDS:
            said = time.monotonic()
            print(f"{what}: {done}{f'/{total}' if total else ''}", flush=True)

    yield tell
