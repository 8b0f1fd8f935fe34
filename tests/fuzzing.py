"""Damaged files by the hundred, each read in a child process that may crash.

``python tests/fuzzing.py 300`` tries 300 damaged files of every kind and prints a table.
"""

import contextlib
import copy
import io
import json
import os
import random
import select
import signal
import struct
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image

SLOW = 10.0  # seconds for a file
MEMORY = 512 * 2**20  # bytes that reading one may take


def damaged(content: bytes, count: int, seed: int, repair=None):
    """``count`` damaged copies: bytes changed, taken out, put in, repeated, swapped; cut short; numbers that lie.

    Every second one goes through ``repair``, which makes its checksums right again.
    """
    generator = random.Random(seed)
    for number in range(count):
        data, spot = bytearray(content), generator.randrange(len(content))
        size = generator.choice([1, 1, 2, 4, 16, 100])
        match generator.randrange(10):
            case 0:
                data[spot] ^= 1 << generator.randrange(8)
            case 1:
                data[spot : spot + size] = generator.randbytes(min(size, len(data) - spot))
            case 2:
                data = data[:spot]
            case 3:
                del data[spot : spot + size]
            case 4:
                data[spot:spot] = generator.randbytes(size)
            case 5:
                data += generator.randbytes(100 * size)
            case 6:
                data[spot : spot + 4] = generator.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\x80"])
            case 7:
                other = generator.randrange(len(data))
                data[spot : spot + size], data[other : other + size] = (
                    data[other : other + size],
                    data[spot : spot + size],
                )
            case 8:
                data[spot:spot] = data[spot : spot + 10 * size]
            case 9:
                for _ in range(1 + len(data) // 200):
                    data[generator.randrange(len(data))] = generator.randrange(256)
        yield repair(bytes(data)) if repair and number % 2 else bytes(data)


ODD = [
    *(None, True, 0, -1, 1.5, 2**31, 2**62, 2**63, 10**400, -(10**30), 1e308, float("inf"), float("nan")),
    *("", "x", "\0", "\ud800", "7" * 5000, [], {}, [[]], [None], [[1, 2]], [1e6] * 6, [0] * 1000, [2**62] * 4),
    *({"counts": "", "size": []}, {"counts": "_" * 100000, "size": [30, 40]}),
    *({"counts": counts, "size": [30, 40]} for counts in ([2**62] * 3 + [2**62 + 1200], [-5, 1205], "\u2603", {})),
    [[1, 1, 1e5, 3, 9, 1e5] * 1000],
]


def changed(content: bytes, count: int, seed: int):
    """``count`` JSON files that are right but for one or a few values, which are anything, or absent."""
    generator = random.Random(seed)
    for _ in range(count):
        root = json.loads(content)
        for _ in range(generator.choice([1, 1, 1, 3])):
            place = [root]
            rows = (
                generator.choice([rows for rows in root.values() if isinstance(rows, list)] or [[]])
                if isinstance(root, dict)
                else root
            )
            if rows and generator.random() < 0.5 and isinstance(row := generator.choice(list(rows)), dict) and row:
                row[generator.choice(list(row))] = copy.deepcopy(generator.choice(ODD))
                continue
            while isinstance(place[-1], (dict, list)) and place[-1] and (len(place) < 2 or generator.random() < 0.85):
                keys = list(place[-1]) if isinstance(place[-1], dict) else range(len(place[-1]))
                key, owner = generator.choice(list(keys)), place[-1]
                place.append(owner[key])
            if len(place) > 1 and generator.random() < 0.15:
                del owner[key]
            elif len(place) > 1:
                owner[key] = copy.deepcopy(generator.choice(ODD))
        yield json.dumps(root).encode("utf-8", "surrogatepass")


def repaired_png(data: bytes) -> bytes:
    """The file with right checksums of its chunks, as far as they can be found."""
    done, place = bytearray(data[:8]), 8
    while place + 12 <= len(data):
        (size,) = struct.unpack(">I", data[place : place + 4])
        body = data[place + 4 : place + 8 + size]
        done += data[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + size
    return bytes(done + data[place:])


def repaired_zip(data: bytes) -> bytes:
    """The file with right checksums of its records, as far as they can be found."""
    done, sums, place = bytearray(data), {}, 0
    while (place := data.find(b"PK\x03\x04", place)) >= 0 and place + 30 <= len(data):
        size, name, extra = struct.unpack("<IHH", data[place + 22 : place + 30])
        start = place + 30 + name + extra
        sums[place] = struct.pack("<I", zlib.crc32(data[start : start + size]))
        place += 4
    place = 0
    while (place := data.find(b"PK\x01\x02", place)) >= 0 and place + 46 <= len(data):
        (header,) = struct.unpack("<I", data[place + 42 : place + 46])
        if header in sums:
            done[place + 16 : place + 20] = sums[header]
        place += 4
    return bytes(done)


def image(mode="RGB", kind="PNG", size=(40, 30), **options) -> bytes:
    """A file with a smooth image and a little noise."""
    rows, columns = np.mgrid[: size[1], : size[0]]
    pixels = np.stack([4 * rows, 3 * columns, 2 * (rows + columns)], -1) + np.random.default_rng(0).integers(
        0, 9, (1, 1, 3)
    )
    file = io.BytesIO()
    made = Image.fromarray(pixels.astype(np.uint8)).convert(mode)
    made.save(file, kind, **options)
    return file.getvalue()


def annotations() -> bytes:
    """An annotation file of COCO's format."""
    images = [{"id": number, "file_name": f"{number}.png", "height": 30, "width": 40} for number in (1, 2)]
    shapes = [[[1, 1, 9, 1, 9, 9, 1, 9.5]], {"size": [30, 40], "counts": [100, 20, 1080]}, [[3, 3, 20, 3, 20, 22]]]
    objects = [
        {"id": n, "image_id": 1 + n % 2, "category_id": 3, "bbox": [1, 1, 8, 8.5], "area": 68, "iscrowd": int(n == 2),
         "segmentation": shape}
        for n, shape in enumerate(shapes, 1)
    ]  # fmt: skip
    return json.dumps({"images": images, "annotations": objects, "categories": [{"id": 3, "name": "cat"}]}).encode()


def results() -> bytes:
    """A results file with boxes and masks."""
    from lk_downstream.metrics.coco import encode_masks

    mask = torch.zeros(1, 30, 40, dtype=torch.bool)
    mask[:, 3:9, 4:11] = True
    row = {"category_id": 3, "score": 0.5, "segmentation": encode_masks(mask)[0]}
    return json.dumps([{"image_id": number, **row} for number in (1, 2, 1)]).encode()


def checkpoint(legacy=False, run=False) -> bytes:
    """A file of ``torch.save``."""
    torch.manual_seed(0)
    tensors = {"stem.weight": torch.randn(4, 3, 4, 4), "norm.bias": torch.zeros(8), "count": torch.tensor(3)}
    content = {"state_dict": tensors, "epoch": 3, "lr": 1e-3, "names": ["a", "b"], "set": {1, 2}}
    content |= {"pytorch-lightning_version": "2.6", "recipe": {"class_path": "X", "init_args": {}}} if run else {}
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def tensors() -> bytes:
    """A file of safetensors."""
    from safetensors.torch import save

    return save({"stem.weight": torch.ones(4, 3, 4, 4), "norm.bias": torch.zeros(8)})


def read_image(path):
    """As an image, and as a mask."""
    from lk_downstream.data.mask_files import read_mask
    from lk_downstream.data.reading import load_image

    yield lambda: load_image(path)
    yield lambda: read_mask(path)


def array():
    """A mask as NumPy saves it."""
    file = io.BytesIO()
    np.save(file, np.random.default_rng(0).integers(0, 9, (30, 40)))
    return file.getvalue()


def polygons():
    """A file of LabelMe's."""
    square = [[1, 2], [20, 2], [20, 20.5], [1, 20]]
    shapes = [{"label": "a", "shape_type": "polygon", "points": square}]
    shapes += [{"label": "b", "shape_type": kind, "points": square[1:3]} for kind in ("rectangle", "circle")]
    return json.dumps({"imageHeight": 30, "imageWidth": 40, "shapes": shapes}).encode()


def read_polygons(path):
    """As a mask."""
    from lk_downstream.data.labelme import read_labelme

    yield lambda: read_labelme(path, {"a": 0, "b": 1})


def segments():
    """A panoptic annotation file."""
    parts = [{"id": number, "category_id": 1 + number % 2, "iscrowd": 0} for number in range(1, 6)]
    rows = [{"image_id": number, "file_name": f"{number}.png", "segments_info": parts} for number in range(3)]
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in range(3)]
    kinds = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    return json.dumps({"images": images, "annotations": rows, "categories": kinds}).encode()


def read_segments(path):
    """As the masks of a data set."""
    from lk_downstream.data import CocoPanoptic

    yield lambda: CocoPanoptic("train", str(path.parent), annotations=path.name).segments


def read_tables(path):
    """As labels of images, which are not looked for."""
    from lk_downstream.data import ClassTable

    yield lambda: ClassTable("train", str(path.parent), table=path.name).found
    yield lambda: ClassTable("train", str(path.parent), table=path.name, separator="|").found


def shards(compression: str = "snappy") -> bytes:
    """A Parquet file with three images in two row groups, as ``datasets`` writes it."""
    import pyarrow
    from pyarrow.parquet import write_table

    note = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    columns = {"image": [{"bytes": image(), "path": f"{n}.png"} for n in range(3)], "label": [0, 1, 0]}
    table = pyarrow.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": note}})})
    write_table(table, file := pyarrow.BufferOutputStream(), row_group_size=2, compression=compression)
    return file.getvalue().to_pybytes()


def read_shards(path):
    """As images with labels, and as images with masks, if only of some."""
    from lk_downstream.data import ClassParquet, SegmentationParquet

    yield lambda: [item["image"] for item in ClassParquet("train", str(path))]
    yield lambda: SegmentationParquet("train", str(path), ["a"], annotation="image").samples


def read_annotations(path):
    """As training and evaluation read them."""
    from lk_downstream.data.coco_file import load_content
    from lk_downstream.data.coco_index import make_index
    from lk_downstream.data.coco_lists import read_categories
    from lk_downstream.data.detection import KEYS
    from lk_downstream.metrics.coco_truth import check_outlines, load_annotations

    def index():
        found = make_index(path, *load_content(path, **KEYS))
        for number in range(len(found.files)):
            found.masks(number)

    yield index
    yield lambda: read_categories(path)
    yield lambda: check_outlines(load_annotations(path), path)


def read_results(path):
    """As ``evaluate --results`` scores them."""
    from lk_downstream.metrics.coco_results import score_file

    truth = path.parent / "truth.json"
    truth.write_bytes(annotations())
    yield lambda: score_file(truth, path)
    yield lambda: score_file(truth, path, "segm", "pycocotools")


def read_settings(path):
    """As the command line looks at them first."""
    from lk_downstream.config_files import resolve

    yield lambda: resolve(["--config", str(path)])


def read_names(path):
    """As names of classes."""
    from lk_downstream.data.labels import class_names

    yield lambda: class_names(str(path), path.parent)


def read_checkpoint(path):
    """As weights, as a run to go on with, and as a task."""
    from lk_downstream.backbones import files
    from lk_downstream.tasks import load_task

    def run():
        files.check_run(path)
        files.read_run(path) if hasattr(files, "read_run") else torch.load(path, weights_only=True)

    yield lambda: files.read(path)
    yield run
    yield lambda: load_task(path)


CONFIG = (Path(__file__).parents[1] / "configs" / "demo_detection.yaml").read_bytes()
# kind -> reader, suffix, healthy files, what repairs checksums
KINDS = {
    "PNG": (read_image, ".png", lambda: [image(), image("P"), image("L"), image("RGBA"), image("LA"), image("1")],
            repaired_png),
    "JPEG": (read_image, ".jpg", lambda: [image(kind="JPEG"), image("L", "JPEG"), image("CMYK", "JPEG"),
                                         image(kind="JPEG", progressive=True),
                                         image(kind="JPEG", exif=turned())], None),
    "TIFF": (read_image, ".tif", lambda: [image(kind="TIFF", compression=name) for name in (
        None, "tiff_lzw", "tiff_deflate", "jpeg", "packbits")] + [image("L", "TIFF")], None),
    "BMP, GIF, WebP, PPM": (read_image, ".bmp", lambda: [image(kind="BMP"), image("P", "GIF"), image(kind="WEBP"),
                                                         image(kind="PPM"), image("L", "BMP")], None),
    "annotations": (read_annotations, ".json", lambda: [annotations()], None),
    "array": (read_image, ".npy", lambda: [array()], None),
    "LabelMe": (read_polygons, ".json", lambda: [polygons()], None),
    "panoptic": (read_segments, ".json", lambda: [segments()], None),
    "table": (read_tables, ".csv", lambda: [b"file,label\na.jpg,x|y\n\"b\".jpg,\xc3\xa4\n"], None),
    "Parquet": (read_shards, ".parquet", lambda: [shards(), shards("none"), shards("zstd")], None),
    "results": (read_results, ".json", lambda: [results()], None),
    "YAML": (read_settings, ".yaml", lambda: [CONFIG], None),
    "classes.txt": (read_names, ".txt", lambda: ["\ufeffroad\r\nsky \u00e4\n\ntree\n".encode()], None),
    "checkpoint (zip)": (read_checkpoint, ".pth", lambda: [checkpoint(), checkpoint(run=True)], repaired_zip),
    "checkpoint (legacy)": (read_checkpoint, ".pth", lambda: [checkpoint(legacy=True)], None),
    "safetensors": (read_checkpoint, ".safetensors", lambda: [tensors()], None),
}  # fmt: skip


def turned():
    """EXIF data of a turned image."""
    exif = Image.Exif()
    exif[274] = 6
    return exif


def inputs(kind: str, count: int, seed: int = 0):
    """``count`` damaged files of a kind."""
    _, suffix, healthy, repair = KINDS[kind]
    files = healthy()
    share = -(-count // len(files))
    for number, content in enumerate(files):
        most = min(share, count - number * share)
        halves = (most - most // 2, most // 2) if suffix == ".json" else (most, 0)
        yield from damaged(content, halves[0], seed + number, repair)
        yield from changed(content, halves[1], seed + number) if halves[1] else ()


def peak() -> int:
    """Bytes that this process held at most since :func:`forget_peak`."""
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def forget_peak() -> int:
    """Begin anew to measure; the bytes that are held now."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
        file.write("5")
    return peak()


def outcome(read, name: str) -> str:
    """What came of reading: ``read``, ``sentence``, or what is wrong with it."""
    from lk_downstream.errors import InputError

    try:
        read()
    except InputError as error:
        text = str(error)
        if name not in text:
            return f"nameless: {text:.200}"
        return "sentence" if len(text.splitlines()) == 1 else f"several lines: {text:.300}"
    except Exception as error:
        return f"trace: {type(error).__name__}: {error!s:.200}"
    return "read"


def serve(reader, folder: Path, suffix: str, contents: list, first: int, answers: int) -> None:
    """In the child: read one after the other and tell what came of each."""
    warnings.simplefilter("ignore")
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    os.dup2(nothing, 1)
    with os.fdopen(answers, "w", encoding="utf-8", errors="replace") as out:
        for number in range(first, len(contents)):
            path = folder / f"file_{number}{suffix}"
            path.write_bytes(contents[number])
            held = forget_peak()
            found = [outcome(read, path.name) for read in reader(path)]
            if (more := peak() - held) > MEMORY:
                found.append(f"memory: {more // 2**20} MiB")
            path.unlink()
            out.write(json.dumps(found) + "\n")
            out.flush()


def fuzz(kind: str, contents: list[bytes]) -> list[list[str]]:
    """What came of each file, of each way to read it; ``signal`` or ``hang`` where the child ended."""
    reader, suffix, healthy, _ = KINDS[kind]
    found: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for content in healthy():  # also so that a child need not import anything
            path = Path(folder, f"healthy{suffix}")
            path.write_bytes(content)
            for read in reader(path):
                outcome(read, path.name)
        while len(found) < len(contents):
            receive, send = os.pipe()
            child = os.fork()
            if not child:
                os.close(receive)
                serve(reader, Path(folder), suffix, contents, len(found), send)
                os._exit(0)
            os.close(send)
            with os.fdopen(receive, "rb", buffering=0) as answers:
                text, since = b"", time.monotonic()
                while True:
                    ready, _, _ = select.select([answers], [], [], max(0, since + SLOW - time.monotonic()))
                    part = answers.read(65536) if ready else b""
                    if not part:
                        break
                    text += part
                    while b"\n" in text:
                        line, text = text.split(b"\n", 1)
                        found.append(json.loads(line))
                        since = time.monotonic()
            if not ready:
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if len(found) < len(contents):
                found.append([f"signal {status & 127}" if ready else f"hang: over {SLOW} s"])
    return found


def failures(found: list[list[str]]) -> list[str]:
    """Those of the answers that are neither contents nor a sentence."""
    return [answer for answers in found for answer in answers if answer not in ("read", "sentence")]


if __name__ == "__main__":
    count = int(sys.argv[1])
    torch.set_num_threads(1)
    for kind in sys.argv[2:] or KINDS:
        contents, start = list(inputs(kind, count)), time.perf_counter()
        found = fuzz(kind, contents)
        wrong = failures(found)
        bad = sum(any(answer not in ("read", "sentence") for answer in answers) for answers in found)
        print(f"{kind:24} {len(contents):5} inputs  {bad:4} failures  {time.perf_counter() - start:6.1f} s", flush=True)
        for text, times in Counter(answer.split("file_")[0][:150] for answer in wrong).most_common(12):
            print(f"    {times:4} {text!r}")
