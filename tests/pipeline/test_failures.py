from __future__ import annotations

import logging
from collections.abc import Iterator

import pyarrow as pa
import pytest
import ray
import ray.data
from botocore.exceptions import ClientError

from moa.errors import ConfigError, MoaError, RunError
from moa.pipeline.failures import told_plainly


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        logging_level=logging.ERROR, object_store_memory=128 << 20,
    )  # fmt: skip
    yield
    ray.shutdown()


def fail(error: Exception) -> None:
    raise error


def in_a_task(error: Exception) -> None:
    ray.get(ray.remote(fail).remote(error))


def in_a_stage(error: Exception) -> None:
    def stage(batch: pa.Table) -> pa.Table:
        raise error

    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.data.DataContext.get_current().raise_original_map_exception = True
    list(ray.data.range(3).map_batches(stage).iter_batches())


@pytest.mark.parametrize("raised", [fail, in_a_task, in_a_stage])
@pytest.mark.parametrize(
    "error", [ConfigError("set THE_KEY"), RunError("it was taken over")], ids=["config", "run"]
)
def test_our_own_errors_come_through_as_they_were_raised(raised, error: MoaError) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    with pytest.raises(type(error)) as caught, told_plainly():
        raised(error)

    assert str(caught.value) == str(error)
    assert type(caught.value) is type(error)


@pytest.mark.parametrize("raised", [fail, in_a_task, in_a_stage])
@pytest.mark.parametrize(
    "error",
    [
        OSError("Couldn't deserialize thrift"),
        pa.ArrowInvalid("no Parquet"),
        ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "PutObject"),
    ],
    ids=["os", "arrow", "s3"],
)
def test_what_a_disk_or_a_bucket_did_is_told_in_one_line(raised, error: Exception) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    with pytest.raises(RunError, match="the same command goes on") as caught, told_plainly():
        raised(error)

    assert str(error) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bug_is_no_users_error() -> None:
    with pytest.raises(ZeroDivisionError), told_plainly():
        in_a_task(ZeroDivisionError())
