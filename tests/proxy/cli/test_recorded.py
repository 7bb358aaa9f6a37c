"""The long format of recorded outcomes: what is read, and what is refused with its line."""

import gzip
import json

import pytest

from proxy.cli.recorded import BadRecording, Cell, read

HEAD = "query,arm,quality,cost_usd"


def written(tmp_path, text, name="data.csv"):
    """A file with this text."""
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_csv(tmp_path):
    """Rows of a query belong together wherever they stand; text with line breaks stays whole."""
    text = (
        "query,arm,quality,cost_usd,latency_s,text,category,feature.tier,feature.age\n"
        'q1,a,0.5,0.001,1.5,"two\nlines\u2028and more",math,gold,30\n'
        "q2,a,0.25,0.002,,hello,chat,,\n"
        "q1,b,1,0.01,2.5,,,,\n"
    )

    found = read(written(tmp_path, text))

    first, second = found.queries
    assert found.arms == ("a", "b")
    assert (first.id, first.text, first.category) == ("q1", "two\nlines\u2028and more", "math")
    assert first.features == {"tier": "gold", "age": 30.0}
    assert first.cells == {"a": Cell(0.5, 0.001, 1.5), "b": Cell(1.0, 0.01, 2.5)}
    assert second.cells == {"a": Cell(0.25, 0.002, None)}
    assert second.features == {}


def test_json_lines_packed(tmp_path):
    """The same in JSON, under other names, with blank lines between."""
    rows = [
        {"id": 7, "arm": "a", "reward": 1, "cost": 0.5, "text": "hi", "features": {"tier": "gold", "age": 3}},
        {"id": 7, "arm": "b", "reward": 0.0, "cost": 0, "latency": 2, "kind": "math"},
    ]
    path = tmp_path / "data.jsonl.gz"
    path.write_bytes(gzip.compress("\n\n".join(json.dumps(row) for row in rows).encode()))

    (query,) = read(path, category="kind").queries

    assert (query.id, query.category, query.features) == ("7", "math", {"tier": "gold", "age": 3.0})
    assert query.cells["b"] == Cell(0.0, 0.0, 2.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{HEAD}\n1,a,1.5,0.1\n", "line 2: `quality` is 1.5"),
        (f"{HEAD}\n1,a,nan,0.1\n", "line 2: `quality` is 'nan', which is no number"),
        (f"{HEAD}\n1,a,0.5,-1\n", "line 2: `cost_usd` is -1.0"),
        (f"{HEAD}\n1,a,0.5,cheap\n", "line 2: `cost_usd` is 'cheap'"),
        (f"{HEAD}\n1,a,0.5,\n", "line 2: `cost_usd` is missing"),
        (f"{HEAD}\n1,,0.5,1\n", "line 2: `arm` is missing"),
        (f"{HEAD}\n1,a,0.5,1\n1,a,0.5,1\n", "line 3: query '1' has a second row of arm 'a'"),
        (f"{HEAD}\n1,a,0.5,1,9\n", "line 2: more fields"),
        (f"{HEAD},latency_s\n1,a,0.5,1,-2\n", "line 2: `latency_s` is -2.0"),
        (f"{HEAD}\n", "there is no row in it"),
        ("", "there is no row in it"),
        (f"{HEAD}\n1,GPT 4,0.5,1\n", "line 2: 'GPT 4' can not be the name of an arm"),
        (f"{HEAD},quality\n1,a,0.5,1,0.6\n", "line 1: the column 'quality' stands there twice"),
        ("query;arm;quality;cost_usd\n1;a;0.5;1\n", "line 1: no column is called `arm`"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, text, said):
    """With the line it is in."""
    with pytest.raises(BadRecording, match=said):
        read(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "line 1: not JSON"),
        ("[1]", "line 1: not a JSON object"),
        ('{"features": 3}', "`features` is not"),
        ("query,arm,quality,cost_usd", "CSV is read from files called .csv"),
        ('{"query": 1, "arm": ["a"], "quality": 1, "cost_usd": 1}', "`arm` is neither a text nor a number"),
    ],
)
def test_json_that_is_none(tmp_path, text, said):
    """The same for JSON lines."""
    with pytest.raises(BadRecording, match=said):
        read(written(tmp_path, text, "data.jsonl"))


def test_files_that_are_no_text(tmp_path):
    """Neither bytes that are no UTF-8 nor a broken archive is a traceback."""
    plain, packed, damaged = tmp_path / "a.csv", tmp_path / "a.csv.gz", tmp_path / "b.csv.gz"
    plain.write_bytes(b"\xff\xfe\x00")
    packed.write_bytes(b"no archive")
    whole = bytearray(gzip.compress(f"{HEAD}\n1,a,0.5,1\n".encode()))
    # The kind of block that no deflate stream has.
    whole[10] |= 0b110
    damaged.write_bytes(whole)

    with pytest.raises(BadRecording, match="not UTF-8"):
        read(plain)
    with pytest.raises(BadRecording, match="can not be unpacked"):
        read(packed)
    with pytest.raises(BadRecording, match="can not be unpacked"):
        read(damaged)


def test_prompts_may_be_long_and_names_of_columns_padded(tmp_path):
    """The csv module gives up at 128 KiB, which many a prompt has; spreadsheets put blanks after commas."""
    path = written(tmp_path, f"query, arm, quality, cost_usd, text\n1, a,0.5,1,{'word ' * 60_000}\n", "A.CSV")

    (query,) = read(path).queries

    assert list(query.cells) == ["a"]
    assert query.text is not None
    assert len(query.text) == 300_000


def test_a_category_that_no_row_has(tmp_path):
    """Asked for by name, so its absence is a mistake."""
    path = written(tmp_path, f"{HEAD}\n1,a,0.5,1\n")

    assert read(path).queries[0].category is None
    with pytest.raises(BadRecording, match="'kind'"):
        read(path, category="kind")
