"""The table of a run's metrics."""

import csv
from pathlib import Path

import pytest

from lk_downstream.loggers import TableLogger


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_holds_what_was_logged_at_any_time(tmp_path, monkeypatch):
    logger, path = TableLogger(tmp_path, "demo", "run_0"), tmp_path / "demo/run_0/metrics.csv"
    logger.log_metrics({"train/loss": 2.5}, 0)
    assert rows(path) == [{"step": "0", "train/loss": "2.5"}]
    logger.log_metrics({"train/loss": 1.5}, 1)
    former = rows(path)
    assert former[1] == {"step": "1", "train/loss": "1.5"}
    with monkeypatch.context() as patch:  # a kill before the table with a further column is complete

        def killed(*args):
            raise KeyboardInterrupt

        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            logger.log_metrics({"val/mIoU, so far": 0.5}, 1)
    assert rows(path) == former
    logger.save()
    logger.finalize("success")
    assert [row["val/mIoU, so far"] for row in rows(path)] == ["", "", "0.5"]
    assert [row["train/loss"] for row in rows(path)] == ["2.5", "1.5", ""]
    assert not list(path.parent.glob("*.part"))
