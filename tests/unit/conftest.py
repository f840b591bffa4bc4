"""What unit tests share: one MLflow database, since making one takes seconds."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An SQLite database that the first tracker makes."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/new/mlflow.db"
