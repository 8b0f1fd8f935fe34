"""Files from outside are opened by one module: every other place that opens a file is listed here, with its reason."""

import ast
from pathlib import Path

import pytest

from lk_downstream import trust
from lk_downstream.errors import InputError

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lk_downstream"

# Last parts of the names of what reads files, images, archives or code.
READERS = {
    *(
        "load",
        "loads",
        "safe_load",
        "load_file",
        "load_state_dict_from_url",
        "load_url",
        "download_url_to_file",
        "urlopen",
    ),
    *("open", "open_image", "decode_image", "decode_jpeg", "decode_png", "read_image", "read_file", "mmap", "ZipFile"),
    *("is_zipfile", "Unpickler", "genops", "TarFile", "read_text", "read_bytes", "fromfile", "memmap", "loadtxt"),
    *("ParquetFile", "ParquetDataset"),
    *("genfromtxt", "read_csv", "frombuffer", "unpack_archive", "exec", "eval", "compile_command"),
    *("__import__", "from_file", "imread", "safe_open", "hf_hub_download"),
}
# File -> readers that it may call, and why.
ALLOWED = {
    "archive_index.py": ({"open", "ZipFile", "TarFile", "frombuffer"}, "the directory of an archive, as numbers alone"),
    "claims.py": ({"open"}, "a file that it makes"),
    "study.py": ({"open"}, "what its runs have said"),
    "commands/study.py": ({"safe_load"}, "a value of the command line"),
    "archives.py": ({"open"}, "an archive, whose content goes through read_bytes"),
    "kept_arrays.py": ({"load"}, "numbers alone, which the package has kept"),
    "analysis/latency.py": ({"open"}, "writes a table"),
    "backbones/files.py": (
        {"open", "ZipFile", "download_url_to_file"},
        "first bytes of a weight file; a download that the user asked for, which is then read as any other file",
    ),
    "backbones/pickles.py": ({"open", "ZipFile", "genops"}, "reads the instructions of a pickle and runs none"),
    "reports/files.py": ({"open"}, "writes a table"),
    "reports/curves.py": ({"open", "read_text", "loads"}, "what the run itself has written"),
    "callbacks/checkpoints.py": ({"open"}, "a file that it writes"),
    "loggers.py": ({"open", "read_text"}, "the table that it writes"),
    "stopping.py": ({"open"}, "the null device"),
    "cli.py": ({"safe_load"}, "what the parser has just dumped"),
    "commands/predict.py": ({"open", "load"}, "a table that it writes; lk_downstream.load"),
    "data/rows.py": ({"open", "frombuffer"}, "the first bytes, by which one of four decoders is named; rows in memory"),
    "data/video.py": ({"open"}, "a video, by one of a few containers that are named, without other files or a network"),
    "export/files.py": ({"load"}, "the files that it has just written, to compare them"),
    "export/integers.py": ({"load"}, "the file that it has just written"),
    "export/metadata.py": ({"loads"}, "texts of a file, as data"),
    "export/precisions.py": ({"load"}, "files that the export has just written"),
    "exported.py": ({"load"}, "a program that trust_programs has read before"),
    "inference/large.py": ({"frombuffer"}, "sums that it has written itself"),
    "inference/tiled_tiff.py": ({"read_bytes", "frombuffer"}, "parts of a mask that it has written itself"),
    "trust_programs.py": ({"loads", "ZipFile", "load"}, "JSON within a limit, and tensors, of an archive"),
    "ops/triton_kernels.py": ({"load"}, "Triton's instruction"),
    "data/coco_index.py": ({"frombuffer"}, "bytes in memory"),
    "data/coco_kept.py": ({"loads", "frombuffer"}, "what this module has kept in the cache folder"),
    "data/coco_lists.py": ({"open", "mmap", "loads"}, "a list that is searched for in a mapped file"),
    "data/coco_outlines.py": ({"loads", "frombuffer"}, "outlines, which this module packed itself"),
    "data/parquet_places.py": ({"open"}, "parts of files that trust has read, within its limit; own files"),
    "data/listing.py": ({"frombuffer"}, "names in memory"),
    "data/left_out.py": ({"open", "read_text"}, "the list that it writes"),
    "data/reading.py": ({"decode_jpeg", "frombuffer"}, "bytes that trust has read and whose header it has checked"),
    "data/shards.py": ({"loads"}, "what is noted in a schema, which trust has read"),
    "data/segmentation.py": ({"frombuffer"}, "pixels in memory"),
}


def calls(path):
    """Last parts of the names of all functions that a file calls, or hands on."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = (
                node.func.value.id
                if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name)
                else ""
            )
            if name in ("eval", "exec") and isinstance(node.func, ast.Attribute):
                continue  # of a model
            if owner != "trust" and name in READERS:
                yield name
            if name == "load" and not any(word.arg == "weights_only" for word in node.keywords) and owner == "torch":
                yield "torch.load without weights_only"


def unlisted(path):
    allowed, _ = ALLOWED.get(path.relative_to(PACKAGE).as_posix(), (set(), ""))
    return set(calls(path)) - allowed


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_one_module_opens_files_from_outside(path):
    if path.name == "trust.py":
        assert "torch.load without weights_only" not in set(calls(path))
    else:
        assert unlisted(path) == set(), "read files through lk_downstream.trust, or list the reason above"


def test_a_planted_reader_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("test_trust.PACKAGE", tmp_path)
    for text in (
        "import torch\ntorch.load('x')",
        "from PIL import Image\nImage.open('x')",
        "open('x')",
        "a.read_text()",
    ):
        (tmp_path / "planted.py").write_text(text, encoding="utf-8")
        assert unlisted(tmp_path / "planted.py"), text
    (tmp_path / "planted.py").write_text("from lk_downstream import trust\ntrust.read_bytes('x')", encoding="utf-8")
    assert not unlisted(tmp_path / "planted.py")


def test_what_is_listed_is_there():
    for name in ALLOWED:
        assert ALLOWED[name][0] <= set(calls(PACKAGE / name)), name


@pytest.mark.parametrize("most", [trust.MAX_FILE_BYTES, trust.MAX_TEXT_BYTES])
def test_limits_can_be_raised(tmp_path, monkeypatch, most):
    (tmp_path / "a.txt").write_bytes(bytes(100))
    assert len(trust.read_bytes(tmp_path / "a.txt", most)) == 100
    monkeypatch.setenv(most[0], "99")
    with pytest.raises(InputError, match=rf"a\.txt has 100 bytes, more than the 99 .* raise {most[0]}"):
        trust.read_bytes(tmp_path / "a.txt", most)
    monkeypatch.setenv(most[0], "1e2")
    assert len(trust.read_bytes(tmp_path / "a.txt", most)) == 100
