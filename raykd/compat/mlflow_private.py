"""Private names of MLflow 3.17."""

from __future__ import annotations


def forget_artifact_folders() -> None:
    """Forget where the artifacts of runs were, which MLflow remembers for each run as long as the process lives.

    To be called after the folders in a database were changed.
    """
    from mlflow.tracking._tracking_service import utils

    getattr(utils, "_artifact_repos_cache", {}).clear()


def close_connections(uri: str) -> None:
    """Close the connections to a database, which MLflow keeps for each URI as long as the process lives.

    Args:
        uri: The database, as it was opened.
    """
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

    for store in (Registry, Tracking):
        if (engine := getattr(store, "_engine_map", {}).get(uri)) is not None:
            engine.dispose()
