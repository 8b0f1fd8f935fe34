"""Single values of Parquet files: those of pyarrow, whatever the pages; without their row group where it can be."""

import multiprocessing
import random
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from lk_downstream import trust
from lk_downstream.data import parquet_places
from lk_downstream.data.parquet_pages import pages, piece_marks
from lk_downstream.data.shards import Shards

arrow = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(parquet_places, "KEEP_FROM", 0)
    return tmp_path / "cache"


def content(count=50, largest=200_000):
    """Values of all sizes, some of which can be packed, some stand twice, and pieces of 64 KiB end within them."""
    generator = np.random.default_rng(0)
    values = []
    for number in range(count):
        size = int(largest ** generator.random())
        noise = generator.bytes(size)
        values.append((noise, noise[:3] * (size // 3 + 1), (noise[:40] + bytes(size))[:size])[number % 3])
    values[7], values[19] = values[3], values[8]
    return values


def write(path, values, nested=True, **options):
    cells = [{"bytes": value, "path": f"{at}.jpg"} for at, value in enumerate(values)] if nested else values
    table = arrow.table({"label": list(range(len(values))), "image": cells})
    pq.write_table(table, path, **{"row_group_size": 12, **options})
    return Shards([path])


def groups_read(monkeypatch):
    read = []
    original = trust.read_parquet
    monkeypatch.setattr(trust, "read_parquet", lambda *args: read.append(args[2]) or original(*args))
    return read


FORMS = {
    "by default": {},
    "not nested": {"nested": False},
    "pages of a value": {"data_page_size": 1, "write_batch_size": 1, "use_dictionary": False},
    "small pages": {"data_page_size": 2**16, "write_batch_size": 2, "use_dictionary": False},
    "small dictionary": {"dictionary_pagesize_limit": 2**17, "write_batch_size": 2},
    "second pages": {"data_page_version": "2.0", "use_dictionary": False, "write_batch_size": 3, "data_page_size": 9},
    "second pages, dictionary": {"data_page_version": "2.0"},
    "check sums": {"write_page_checksum": True},
    "one group": {"row_group_size": 10**6, "use_dictionary": False},
    "format 1": {"version": "1.0"},
}


@pytest.mark.parametrize("packed", ["snappy", "none"])
@pytest.mark.parametrize("form", FORMS)
def test_values_are_read_alone(tmp_path, monkeypatch, form, packed):
    values = content()
    shards = write(tmp_path / "a.parquet", values, compression=packed, **FORMS[form])
    order = random.Random(0).sample(range(50), 50)
    assert all(shards.image(row, "image") == values[row] for row in order)
    read = groups_read(monkeypatch)
    other = Shards(shards.paths)  # as another process
    assert all(other.image(row, "image") == values[row] for row in order)
    assert read == []


@pytest.mark.skipif(int(arrow.__version__.split(".")[0]) < 21, reason="they are written by pyarrow 21 and later")
def test_pages_of_new_writers(tmp_path, monkeypatch):
    """As Hugging Face's ``datasets`` writes them since its version 4."""
    values = content()
    chunking = {"min_chunk_size": 2**14, "max_chunk_size": 2**16, "norm_level": 0}
    for at, packed in enumerate(("none", "snappy")):
        options = {"use_content_defined_chunking": chunking, "write_page_index": True, "compression": packed}
        shards = write(tmp_path / f"{at}.parquet", values, use_dictionary=["label"], **options)
        assert [shards.image(row, "image") for row in range(50)] == values
        read = groups_read(monkeypatch)
        assert [Shards(shards.paths).image(row, "image") for row in range(50)] == values
        assert read == []


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zstd"},
        {"compression": "none", "use_dictionary": False, "column_encoding": {"image.bytes": "DELTA_LENGTH_BYTE_ARRAY"}},
    ],
)
def test_other_pages_are_read_by_the_group(tmp_path, monkeypatch, options):
    values = content(20)
    shards = write(tmp_path / "a.parquet", values, **options)
    assert [shards.image(row, "image") for row in range(20)] == values
    read = groups_read(monkeypatch)
    monkeypatch.setattr(parquet_places, "_records", lambda *args: pytest.fail("they were looked for once"))
    shards = Shards(shards.paths)
    assert [shards.image(row, "image") for row in range(20)] == values
    assert read == [0, 1]


def test_nulls_and_nothing(tmp_path):
    values = [b"x" * 500, None, b"", b"y" * 70_000, None]
    for nested in (True, False):
        shards = write(tmp_path / f"{nested}.parquet", values, nested)
        for again in (shards, Shards(shards.paths)):
            assert [again.image(row, "image") for row in (0, 3)] == [values[0], values[3]]
            assert again.image(2, "image") == b""
            with pytest.raises(trust.InputError, match="has no bytes in its column image"):
                again.image(4, "image")


def test_what_no_longer_holds(tmp_path, monkeypatch, cache):
    values = content(24)
    shards = write(tmp_path / "a.parquet", values, compression="none")
    assert [shards.image(row, "image") for row in range(24)] == values
    (file,) = cache.iterdir()
    kept = file.read_bytes()
    for number in range(200):  # records half written, or by a process that failed
        bad, generator = bytearray(kept), random.Random(number)
        for _ in range(60):
            bad[generator.randrange(len(bad))] = generator.choice((0, 255, generator.randrange(256)))
        file.write_bytes(bad[: generator.randrange(len(bad))] if number % 4 == 0 else bad)
        row = generator.randrange(24)
        assert Shards(shards.paths).image(row, "image") == values[row]
    file.write_bytes(kept)
    write(tmp_path / "a.parquet", values[::-1], compression="none")  # by then the file is another one
    assert [Shards(shards.paths).image(row, "image") for row in range(24)] == values[::-1]
    monkeypatch.setenv("LK_CACHE", str(tmp_path / "a.parquet"))  # which is no folder
    shards, read = Shards(shards.paths), groups_read(monkeypatch)
    for _ in range(2):
        assert [shards.image(row, "image") for row in random.Random(0).sample(range(24), 24)]
        shards._kept.clear()
    assert sorted(set(read)) == [0, 1]
    assert len(read) == 2


def read_rows(paths, order, queue):
    shards = Shards(paths)
    queue.put([shards.image(row, "image") for row in order])


def test_processes_share_what_they_find(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(parquet_places, "KEEP_FROM", 2**20)  # also in processes that are spawned
    values = content(60, 600_000)
    shards = write(tmp_path / "a.parquet", values)
    monkeypatch.setattr(parquet_places, "KEEP_FROM", 0)
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)
    queue, orders = context.Queue(), [random.Random(seed).sample(range(60), 60) for seed in range(3)]
    workers = [context.Process(target=read_rows, args=(shards.paths, order, queue)) for order in orders]
    for worker in workers:
        worker.start()
    found = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
    assert sorted(map(sorted, found)) == [sorted(values)] * 3
    assert len(list(cache.iterdir())) == 1


def part(data, at, count):
    return data[at : at + count]


def test_hostile_pages():
    generator = random.Random(0)
    packed = arrow.compress(content()[1] * 40 + b"abc" * 90_000, codec="snappy", asbytes=True)
    header = bytes.fromhex("1504158008158008 4c150415001200 00".replace(" ", "")) + bytes(512)
    assert [page.packed for page in pages(partial(part, header), len(header))] == [512]
    for _ in range(3000):
        for data, parse in (
            (packed[:300], piece_marks),
            (header, lambda data: list(pages(partial(part, data), len(data)))),
        ):
            bad = bytearray(data[: generator.randrange(1, len(data))])
            for _ in range(generator.randrange(6)):
                bad[generator.randrange(min(40, len(bad)))] = generator.randrange(256)
            try:
                parse(bytes(bad))
            except (ValueError, IndexError, TypeError, AttributeError):
                continue


def test_threads(tmp_path):
    values = content()
    shards = write(tmp_path / "a.parquet", values, row_group_size=3)
    order = random.Random(0).choices(range(50), k=400)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda row: shards.image(row, "image"), order)) == [values[row] for row in order]


def test_memory_of_groups_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("lk_downstream.data.shards.MOST_BYTES", 2**20)
    values = [np.random.default_rng(at).bytes(400_000) for at in range(4)]
    shards = write(tmp_path / "a.parquet", values, row_group_size=1)
    kept = []
    for at in range(4):
        assert shards.image(at, "image") == values[at]
        kept.append(len(shards._kept))
    assert kept == [1, 2, 2, 2]
    monkeypatch.setattr("lk_downstream.data.shards.MOST_BYTES", 2**18)
    for packed, most in (("snappy", 0), ("zstd", 1)):  # those of larger groups are kept only if there is no other way
        shards = write(tmp_path / f"{packed}.parquet", values, row_group_size=2, compression=packed)
        assert [shards.image(at, "image") for at in range(4)] == values
        assert len(shards._kept) == most


@pytest.mark.parametrize("options", [{"compression": "snappy"}, {"compression": "none", "use_dictionary": False}])
def test_damaged_ends_are_sentences(tmp_path, monkeypatch, options):
    """The end of a file says where everything is; a group may then have fewer rows than it is said to have."""
    path = tmp_path / "a.parquet"
    write(path, content(21, 900), row_group_size=7, **options)
    good, said, monkey = path.read_bytes(), [], random.Random(1)
    length = int.from_bytes(good[-8:-4], "little") + 8
    for number in range(300):
        monkeypatch.setenv("LK_CACHE", str(tmp_path / str(number)))
        bad = bytearray(good)
        for _ in range(monkey.randint(1, 4)):
            at = len(bad) - 9 - monkey.randrange(length - 8)
            bad[at] = monkey.choice((monkey.randrange(256), bad[at] ^ 1 << monkey.randrange(8)))
        path.write_bytes(bad)
        try:
            shards = Shards([path])
            for row in range(min(30, len(shards)) if "image" in shards.schema.names else 0):
                shards.image(row, "image")
        except trust.InputError as error:
            said.append(str(error))
    assert 50 < len(said) < 250
    assert all(sentence.startswith(str(path)) for sentence in said)
