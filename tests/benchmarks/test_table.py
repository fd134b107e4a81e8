"""A table of outcomes: written, read, and asked."""

import numpy as np
import pytest

from benchmarks.table import Table, images_from_names
from resprune.errors import ResPruneError
from resprune.setting import Setting


def test_what_is_written_is_read_back(table, tmp_path):
    table.save(tmp_path / "t.npz")
    again = Table.load(tmp_path / "t.npz")
    assert again.settings == table.settings
    assert (again.right == table.right).all()
    assert (again.images == table.images).all()
    assert (again.questions, again.groups, again.made) == (
        table.questions,
        table.groups,
        table.made,
    )
    np.testing.assert_allclose(again.likelihoods, table.likelihoods, atol=1e-3)
    np.testing.assert_allclose(again.features, table.features, rtol=1e-6)


def test_it_is_asked_by_setting(table):
    setting = Setting.of("resprune", 43, alpha=1.0, seed_strategy="relevance")
    row = table.row(setting)
    assert table.settings[row] == setting
    assert table.truth[row] == pytest.approx(0.95 - 0.04)
    assert len(table.rows("resprune", 43)) == 27
    assert table.budgets == (98, 64, 43, 22, 11, 6)
    with pytest.raises(ResPruneError, match=r"no resprune .* at 44"):
        table.row(setting.at(44))


def test_what_is_no_table_is_refused(tmp_path):
    (tmp_path / "t.npz").write_bytes(b"not a zip file")
    for name in ("t.npz", "none.npz"):
        with pytest.raises(ResPruneError, match=r"no table .* benchmarks\.tabulated"):
            Table.load(tmp_path / name)


def test_arrays_that_do_not_fit_are_refused(table):
    values = vars(table) | {"groups": table.groups[1:]}
    fields = {name: values[name] for name in Table.__dataclass_fields__}
    with pytest.raises(ResPruneError, match=r"groups has shape \(799,\)"):
        Table(**fields)


def test_images_are_numbered_as_they_come():
    assert images_from_names(["b", "b", "a", "c", "a"]).tolist() == [0, 0, 1, 2, 1]
