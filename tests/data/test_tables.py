from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkdray.data.dataset import open_dataset
from pkdray.data.tables import read_features, read_table
from pkdray.errors import DatasetError


class TestTable:
    def test_names_and_labels_are_text_to_the_letter(self, csv):
        table = read_table(csv("t.csv", "sample_id, target,x\n007,None,1\nNA, 01,2\n"))
        assert table["sample_id"].tolist() == ["007", "NA"]
        assert table["target"].tolist() == ["None", "01"]
        assert table["x"].tolist() == [1, 2]

    def test_a_byte_order_mark_is_no_part_of_the_first_name(self, csv):
        assert read_table(csv("t.csv", "\ufeffsample_id,x\na,1\n"))["sample_id"].tolist() == ["a"]

    def test_integers_become_text(self, tmp_path):
        pd.DataFrame({"sample_id": [7, 8], "target": [0, 1]}).to_parquet(tmp_path / "t.parquet")
        np.savez(tmp_path / "t.npz", sample_id=np.array([7, 8]), target=np.array([0, 1]))
        assert read_table(tmp_path / "t.parquet")["sample_id"].tolist() == ["7", "8"]
        assert read_table(tmp_path / "t.npz")["sample_id"].tolist() == ["7", "8"]

    @pytest.mark.parametrize(
        ("text", "word"),
        [
            ("", "cannot be read"),
            ("sample_id,x\n", "no rows"),
            ("id,x\na,1\n", "no column 'sample_id', only 'id', 'x'"),
            ("sample_id;x\na;1\n", "with commas"),
            ("sample_id,x\n,1\n", "1 rows without a sample_id, the first being row 1"),
            ("sample_id,x\na,1\nb,2,3\n", "cannot be read"),
            ("sample_id,x\na,1,7\nb,2,3\n", "more cells"),
            (",sample_id,x\n0,a,1\n", "no name for column 1 of 3"),
        ],
    )
    def test_bad_csv(self, csv, text, word):
        with pytest.raises(DatasetError, match=word) as error:
            read_table(csv("t.csv", text))
        assert error.value.cure

    def test_fractional_or_missing_names(self, tmp_path):
        pd.DataFrame({"sample_id": [1.0, np.nan], "x": [1, 2]}).to_parquet(tmp_path / "t.parquet")
        with pytest.raises(DatasetError, match=r"float64 in column 'sample_id', such as 1\.0"):
            read_table(tmp_path / "t.parquet")
        pd.DataFrame({"sample_id": ["a", None], "x": [1, 2]}).to_parquet(tmp_path / "t.parquet")
        with pytest.raises(DatasetError, match="row 2"):
            read_table(tmp_path / "t.parquet")

    def test_what_is_no_text(self, tmp_path):
        (tmp_path / "t.csv").write_bytes(b"sample_id,x\n\xff\xfe\x00,1\n")
        with pytest.raises(DatasetError, match="cannot be read"):
            read_table(tmp_path / "t.csv")

    def test_wide_arrays_are_no_columns(self, tmp_path):
        np.savez(tmp_path / "t.npz", sample_id=np.array(["a", "b"]), target=np.zeros((2, 3)))
        with pytest.raises(DatasetError, match="shapes"):
            read_table(tmp_path / "t.npz")


@pytest.mark.parametrize("read", [read_table, read_features])
class TestFiles:
    @pytest.mark.parametrize("suffix", ["csv", "parquet", "npz"])
    def test_missing(self, read, tmp_path, suffix):
        with pytest.raises(DatasetError, match="does not exist"):
            read(tmp_path / f"t.{suffix}")

    def test_unsupported(self, read, csv):
        with pytest.raises(DatasetError, match=r"'\.xlsx'(?s:.*)\.csv, \.parquet, \.npz"):
            read(csv("t.xlsx", "x"))

    @pytest.mark.parametrize("suffix", ["parquet", "npz"])
    @pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
    def test_truncated(self, read, tmp_path, suffix, share):
        path = tmp_path / f"t.{suffix}"
        if suffix == "parquet":
            pd.DataFrame({"sample_id": ["a", "b"], "x": [1.0, 2.0]}).to_parquet(path)
        else:
            np.savez(path, sample_id=np.array(["a", "b"]), values=np.zeros((2, 500)))
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(DatasetError, match="cannot be read") as error:
            read(path)
        assert str(path) in str(error.value)

    def test_a_folder(self, read, tmp_path):
        (tmp_path / "t.csv").mkdir()
        with pytest.raises(DatasetError, match="cannot be read"):
            read(tmp_path / "t.csv")

    def test_pickles_are_never_read(self, read, tmp_path):
        np.savez(tmp_path / "t.npz", sample_id=np.array(["a", {}], dtype=object), values=np.zeros((2, 3)))
        with pytest.raises(DatasetError, match="cannot be read"):
            read(tmp_path / "t.npz")


class TestFeatures:
    def test_columns(self, csv):
        ids, values = read_features(csv("f.csv", "b,sample_id,a\n1,007,2.5\n3,01,-4\n"))
        assert ids.tolist() == ["007", "01"]
        assert values.dtype == np.float32
        assert values.tolist() == [[1, 2.5], [3, -4]]

    def test_truth_values_are_0_and_1(self, csv):
        assert read_features(csv("f.csv", "sample_id,speaks\na,True\nb,False\n"))[1].tolist() == [[1], [0]]

    def test_the_bundled_format_is_read(self):
        mfeat = open_dataset("mfeat")
        ids, values = read_features(mfeat.path / "features" / "zer.parquet")
        assert ids.tolist() == mfeat.samples["sample_id"].tolist()
        assert np.array_equal(values, mfeat.features("zer"))

    def test_a_list_column_with_frames(self, tmp_path):
        lists = [[1.0, 2, 3], [4, 5, 6], [7, 8, 9], [0, 0, 1]]
        table = pd.DataFrame({"sample_id": ["b", "a", "b", "a"], "frame": [1, 0, 0, 1], "values": lists})
        table.to_parquet(tmp_path / "f.parquet")
        ids, values = read_features(tmp_path / "f.parquet")
        assert ids.tolist() == ["b", "a"]
        assert values.tolist() == [[lists[2], lists[0]], [lists[1], lists[3]]]

    @pytest.mark.parametrize("shape", [(3, 7), (3, 5, 7)])
    def test_npz(self, tmp_path, shape):
        values = np.random.default_rng(0).normal(size=shape)
        np.savez(tmp_path / "f.npz", sample_id=np.array(["007", "b", "c"]), values=values)
        ids, found = read_features(tmp_path / "f.npz")
        assert ids.tolist() == ["007", "b", "c"]
        assert np.array_equal(found, values.astype(np.float32))

    @given(st.permutations(list(range(15))))
    def test_the_order_of_rows_does_not_matter(self, tmp_path_factory, order):
        path = tmp_path_factory.mktemp("f") / "f.csv"
        table = pd.DataFrame({"sample_id": np.repeat(list("abc"), 5), "frame": np.tile(range(5), 3), "x": range(15)})
        table.iloc[order].to_csv(path, index=False)
        ids, values = read_features(path)
        assert values.shape == (3, 5, 1)
        where = {name: row for row, name in enumerate(ids)}
        assert np.array_equal(values[[where[name] for name in "abc"]].reshape(-1), np.arange(15))

    def test_one_frame_is_still_a_sequence(self, csv):
        assert read_features(csv("f.csv", "sample_id,frame,x\na,4,1\nb,9,2\n"))[1].shape == (2, 1, 1)

    @pytest.mark.parametrize(
        ("text", "word"),
        [
            ("sample_id,x,y\na,1,\nb,2,3\n", "1 values that are missing, NaN or infinite .* 'a'"),
            ("sample_id,x\na,inf\n", "infinite"),
            ("sample_id,x\na,1e39\n", "as float32"),
            ("sample_id,x,who\na,1,Ann\n", "'who' that is not numeric: 'Ann' at sample 'a'"),
            ("sample_id,x\na,1\nb,n.a.\n", r"'x' that is not numeric: 'n\.a\.' at sample 'b'"),
            ("sample_id,x\na,1\na,2\n", "1 sample_ids more than once: 'a'(?s:.*)column 'frame'"),
            ("sample_id\na\n", "no feature columns"),
            ("sample_id,frame\na,1\n", "no feature columns"),
            ("sample_id,frame,x\na,0,1\na,0,2\n", "frame 0 of sample 'a' more than once"),
            ("sample_id,frame,x\na,0.5,1\n", r"0\.5 in column 'frame'"),
            ("sample_id,frame,x\na,,1\nb,1,1\n", "nan in column 'frame'"),
            ("sample_id,frame,x\na,0,1\nb,0,2\nb,1,2\n", "'a' has 1 frames, 'b' has 2(?s:.*)Cut or pad"),
        ],
    )
    def test_bad_csv(self, csv, text, word):
        path = csv("f.csv", text)
        with pytest.raises(DatasetError, match=word) as error:
            read_features(path)
        assert str(path) in str(error.value)
        assert error.value.cure

    def test_all_bad_columns_at_once(self, csv):
        with pytest.raises(DatasetError, match=r"(?s)2 faults.*'who'.*'when'"):
            read_features(csv("f.csv", "sample_id,who,x,when\na,Ann,1,today\n"))

    def test_lists_of_different_lengths(self, tmp_path):
        pd.DataFrame({"sample_id": ["a", "b"], "values": [[1.0], [1.0, 2]]}).to_parquet(tmp_path / "f.parquet")
        with pytest.raises(DatasetError, match="lists of 1 and of 2 values"):
            read_features(tmp_path / "f.parquet")

    def test_the_index_of_a_filtered_frame_is_no_feature(self, tmp_path):
        table = pd.DataFrame({"sample_id": list("abc"), "x": [1.0, 2, 3]}).loc[[0, 2]]
        table.to_parquet(tmp_path / "f.parquet")
        assert read_features(tmp_path / "f.parquet")[1].tolist() == [[1], [3]]
        table.assign(values=[[1.0, 5], [3, 6]]).drop(columns="x").to_parquet(tmp_path / "g.parquet")
        assert read_features(tmp_path / "g.parquet")[1].tolist() == [[1, 5], [3, 6]]

    def test_a_suffix_in_capitals(self, csv):
        assert read_features(csv("F.CSV", "sample_id,x\na,1\n"))[1].tolist() == [[1]]

    def test_empty_cells_and_other_columns_beside_lists(self, tmp_path):
        pd.DataFrame({"sample_id": ["a", "b"], "values": [[1.0], None]}).to_parquet(tmp_path / "f.parquet")
        with pytest.raises(DatasetError, match="1 rows without values"):
            read_features(tmp_path / "f.parquet")
        pd.DataFrame({"sample_id": ["a"], "values": [[1.0]], "x": [1]}).to_parquet(tmp_path / "f.parquet")
        with pytest.raises(DatasetError, match="'x'"):
            read_features(tmp_path / "f.parquet")
        pd.DataFrame({"sample_id": ["a"], "values": [["x"]]}).to_parquet(tmp_path / "f.parquet")
        with pytest.raises(DatasetError, match="list<"):
            read_features(tmp_path / "f.parquet")

    @pytest.mark.parametrize(
        ("arrays", "word"),
        [
            ({"values": np.zeros((2, 3))}, "no array 'sample_id'"),
            ({"sample_id": np.array(["a"]), "values": np.zeros((2, 3))}, r"\[1\] and 'values' \[2, 3\]"),
            ({"sample_id": np.array(["a"]), "values": np.zeros(1)}, r"'values' \[1\]"),
            ({"sample_id": np.array(["a"]), "values": np.array([["x"]])}, "<U1"),
            ({"sample_id": np.array([], str), "values": np.zeros((0, 3))}, "empty"),
            ({"sample_id": np.array(["a", "a"]), "values": np.zeros((2, 3))}, "more than once: 'a'"),
            ({"sample_id": np.array(["a"]), "values": np.full((1, 2, 3), np.nan)}, "6 values"),
            ({"sample_id": np.array([0.5]), "values": np.zeros((1, 3))}, r"0\.5"),
        ],
    )
    def test_bad_npz(self, tmp_path, arrays, word):
        np.savez(tmp_path / "f.npz", **arrays)
        with pytest.raises(DatasetError, match=word):
            read_features(tmp_path / "f.npz")
