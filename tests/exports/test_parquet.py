"""A shard on disk: bytes, row groups, pictures, and what other programs read of it."""

from __future__ import annotations

import hashlib
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.exports import parquet
from curation.exports.features import features_of
from curation.exports.linked import ending, image_name
from schemas.errors import DamagedError


def table_of(lists, **more):
    columns = {"row_id": [f"{i:020x}" for i in range(len(lists))], "images": pa.array(lists, pa.list_(pa.string()))}
    return pa.table({**columns, **more})


def write(path, table, pictures=None, **options):
    images = ("images",) if "images" in table.column_names else ()
    features = features_of(table.schema, images=images)
    read = pictures.read if pictures is not None else dict
    return parquet.write_shard(path, table, image_columns=images, read_images=read, features=features, **options)


def test_what_was_written_is_what_is_reported(tmp_path, pictures, make):
    names = [pictures.put(make.picture(i)) for i in range(3)]
    table = table_of([[names[0], names[1]], [], [names[1]], None, [names[2], names[2]]])
    written = write(tmp_path / "x.parquet", table, pictures)
    data = (tmp_path / "x.parquet").read_bytes()
    assert (written.sha256, written.bytes, written.rows) == (hashlib.sha256(data).hexdigest(), len(data), 5)
    read = pq.read_table(tmp_path / "x.parquet")["images"].to_pylist()
    assert [[p["bytes"] for p in of_row] for of_row in read if of_row is not None] == [
        [pictures[n] for n in of_row or []] for of_row in table["images"].to_pylist()
    ]
    assert read[0][0]["path"] == names[0][:16] + ".png"


def test_a_picture_is_stored_once_per_row_group(tmp_path, pictures):
    """Eight traces of each row: the file holds the pictures once, uncompressed, and not eight times."""
    names = [pictures.put(b"\x89PNG\r\n\x1a\n" + os.urandom(50_000)) for _ in range(20)]
    write(tmp_path / "x8.parquet", table_of([[name] for name in names for _ in range(8)]), pictures)
    size = (tmp_path / "x8.parquet").stat().st_size
    assert 20 * 50_000 < size < 20 * 50_000 * 1.05
    assert sorted(pictures.asked) == sorted(names)  # and each was read once


def test_row_groups_are_cut_by_bytes_and_rows(tmp_path, pictures):
    names = [pictures.put(os.urandom(10_000)) for _ in range(40)]
    table = table_of([[name] for name in names for _ in range(4)])
    write(tmp_path / "a.parquet", table, pictures, row_group_bytes=100_000)
    groups = pq.read_metadata(tmp_path / "a.parquet")
    rows = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
    # 9 pictures of 10 kB and their text fit into 100 kB; a tenth does not, and then its first row opens a new group.
    assert rows == [36, 36, 36, 36, 16]
    assert pq.read_table(tmp_path / "a.parquet")["images"].to_pylist()[50][0]["bytes"] == pictures[names[12]]
    write(tmp_path / "b.parquet", table, pictures, row_group_rows=50)
    groups = pq.read_metadata(tmp_path / "b.parquet")
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [50, 50, 50, 10]


def test_text_alone_is_cut_by_bytes_too(tmp_path):
    table = pa.table({"text": ["x" * 1000] * 95 + ["y" * 50_000, "z"]})
    write(tmp_path / "t.parquet", table, row_group_bytes=10_000)
    groups = pq.read_metadata(tmp_path / "t.parquet")
    rows = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
    assert rows == [10] * 9 + [5, 1, 1]
    assert pq.read_table(tmp_path / "t.parquet").equals(table)


def test_a_text_larger_than_a_row_group_is_a_group_of_its_own(tmp_path, pictures):
    name = pictures.put(os.urandom(5000))
    table = table_of([[name], [name], []], text=["a", "b" * 9000, "c"])
    write(tmp_path / "t.parquet", table, pictures, row_group_bytes=6000)
    assert pq.read_metadata(tmp_path / "t.parquet").num_row_groups == 3


def test_same_rows_same_bytes_however_they_are_chunked(tmp_path, pictures, make):
    names = [pictures.put(make.picture(i)) for i in range(9)]
    table = table_of([[names[i % 9], names[(i * 5) % 9]] for i in range(300)], text=[f"t{i}" * 50 for i in range(300)])
    pieces = pa.concat_tables([table.slice(a, 37) for a in range(0, 300, 37)])
    encoded = pieces.set_column(2, "text", pieces["text"].cast(pa.large_string()).cast(pa.string()))
    one = write(tmp_path / "1", table, pictures, row_group_bytes=20_000)
    assert one == write(tmp_path / "2", encoded, pictures, row_group_bytes=20_000)


def test_the_file_says_how_to_read_it(tmp_path, pictures, make):
    name = pictures.put(make.picture(1))
    table = table_of(
        [[name]] * 3, k=pa.array([0, 1, 2], pa.int32()), messages=pa.array([[{"role": "user", "content": "q"}]] * 3)
    )
    write(tmp_path / "x.parquet", table, pictures)
    file = pq.ParquetFile(tmp_path / "x.parquet")
    features = json.loads(file.metadata.metadata[b"huggingface"])["info"]["features"]
    assert features["images"] == {"feature": {"_type": "Image"}, "_type": "List"}
    columns = {
        file.metadata.row_group(0).column(i).path_in_schema: file.metadata.row_group(0).column(i)
        for i in range(file.metadata.num_columns)
    }
    assert columns["images.list.element.bytes"].compression == "UNCOMPRESSED"
    assert columns["messages.list.element.content"].compression == "ZSTD"
    assert all(column.has_offset_index for column in columns.values())
    assert columns["row_id"].statistics.min == "0" * 20
    assert columns["messages.list.element.content"].statistics is None
    assert file.schema_arrow.field("images").type.value_type == pa.struct(
        [("bytes", pa.binary()), ("path", pa.string())]
    )


def test_no_rows_is_a_file_all_the_same(tmp_path, pictures):
    table = table_of([])
    assert write(tmp_path / "x.parquet", table, pictures).rows == 0
    assert pq.read_table(tmp_path / "x.parquet").column_names == ["row_id", "images"]


def test_memory_holds_one_row_group_of_pictures(tmp_path, pictures):
    """Of 400 pictures in 20 groups never more than a group and the read-ahead are in hand."""
    names = [pictures.put(os.urandom(2000)) for _ in range(400)]
    table = table_of([[name] for name in names])
    held = []
    reader = parquet._Pictures(table, ("images",), pictures.read)
    for row in range(len(table)):
        reader.new_bytes(row)
        if row and row % 20 == 0:
            reader.forget(row)
            reader.new_bytes(row)
        reader.hold(row)
        held.append(len(reader._held) + len(reader._ahead))
    assert max(held) <= 20 + parquet.READ_AHEAD + 1


def test_a_lost_picture_is_said_and_leaves_no_file(tmp_path, pictures):
    with pytest.raises(DamagedError, match="has lost image abc"):
        write(tmp_path / "x.parquet", table_of([["abc"]]), pictures)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("PNG", "png"), ("JPEG", "jpg"), ("GIF", "gif"), ("WEBP", "webp"), ("BMP", "bmp"), ("TIFF", "tif")],
)
def test_endings_come_from_the_bytes(make, kind, expected):
    assert ending(make.picture(3, kind=kind)) == expected
    assert image_name("0123456789abcdef99", make.picture(3, kind=kind)) == f"0123456789abcdef.{expected}"


def test_linked_pictures_are_files_beside(tmp_path, pictures, make):
    first, second = (pictures.put(make.picture(i, kind=kind)) for i, kind in ((1, "PNG"), (2, "JPEG")))
    said = [
        [{"role": "user", "content": [{"url": {"name": first}}, {"url": None}]}],
        None,
        [{"role": "user", "content": [{"url": {"name": second}}, {"url": {"name": first}}]}],
    ]
    kind = pa.list_(
        pa.struct(
            [("role", pa.string()), ("content", pa.list_(pa.struct([("url", pa.struct([("name", pa.string())]))])))]
        )
    )
    table = pa.table({"messages": pa.array(said, kind)})
    for part in (table, table.slice(1)):
        written = parquet.write_shard(
            tmp_path / "x.parquet", part, linked=["messages.content.url.name"], read_images=pictures.read
        )
        for path, (digest, size) in written.files.items():
            data = (tmp_path / path).read_bytes()
            assert (hashlib.sha256(data).hexdigest(), len(data)) == (digest, size)
        read = pq.read_table(tmp_path / "x.parquet")["messages"].to_pylist()
        assert read[-2] is None
        assert read[-1][0]["content"] == [
            {"url": {"name": f"images/{second[:16]}.jpg"}},
            {"url": {"name": f"images/{first[:16]}.png"}},
        ]
    assert len(list((tmp_path / "images").iterdir())) == 2
