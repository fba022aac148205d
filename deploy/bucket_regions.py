"""Looks at the buckets of a job before it is sent."""

import re

from google.api_core import exceptions

from deploy import prices

# Multi-regions and what lies in them.
_MULTI_REGIONS = {"US": ("us-",), "EU": ("europe-",), "ASIA": ("asia-",)}


def check_buckets(
    client, paths: dict[str, str], region: str, price_file: str
) -> list[str]:
    """Checks that buckets exist, and where they lie.

    Args:
        client: a `google.cloud.storage.Client`.
        paths: flag -> `gs://` path.
        region: that the job runs in.
        price_file: see `deploy.prices`.

    Returns:
        Warnings: what cannot be seen, and what lies elsewhere and what reading
        it costs.

    Raises:
        ValueError: if a bucket does not exist.
    """
    warnings, seen = [], set()
    for flag, path in paths.items():
        name, _, prefix = path.removeprefix("gs://").partition("/")
        try:
            if name in seen:
                continue
            seen.add(name)
            bucket = client.get_bucket(name)
        except exceptions.NotFound as error:
            raise ValueError(
                f"--{flag}={path}: gs://{name} does not exist: create it in "
                f"{region} (gcloud storage buckets create gs://{name} "
                f"--location={region}), or correct --{flag}."
            ) from error
        except exceptions.Forbidden:
            warnings.append(
                f"--{flag}={path}: you may not look at gs://{name}, so its "
                "region is not checked; it takes "
                "roles/storage.legacyBucketReader."
            )
            continue
        if is_near(bucket.location, region):
            continue
        num_bytes = _count_bytes(client, name, prefix)
        warnings.append(
            describe_transfer(
                flag, path, bucket.location, region, num_bytes, price_file
            )
        )
    return warnings


def _count_bytes(client, bucket: str, prefix: str) -> int:
    try:
        return sum(
            b.size or 0 for b in client.list_blobs(bucket, prefix=prefix)
        )
    except exceptions.GoogleAPICallError:
        # Only the size of a cost is lost, and the warning says so.
        return 0


def is_near(location: str, region: str) -> bool:
    """Whether a bucket's location is, or holds, a region."""
    location = location.upper()
    if location in _MULTI_REGIONS:
        return region.startswith(_MULTI_REGIONS[location])
    return location == region.upper()


def describe_transfer(
    flag: str,
    path: str,
    location: str,
    region: str,
    num_bytes: int,
    price_file: str,
) -> str:
    """The warning that data cross regions, with what it costs."""
    table = prices.read(price_file)
    mine, theirs = (_continent(place) for place in (region, location))
    kind = "same_continent" if mine == theirs else "other_continent"
    per_gb = table.transfer_per_gb[kind]
    gigabytes = num_bytes / 1e9
    size = (
        f"{gigabytes:.1f} GB, about ${gigabytes * per_gb:.2f} each time it is "
        "read"
        if num_bytes
        else "its size is not known yet"
    )
    return (
        f"--{flag}={path} lies in {location.lower()} and the job runs in "
        f"{region}: traffic between them costs about ${per_gb:.2f} a GB "
        f"({size}; {table.describe()}). Use a bucket in {region}, or "
        "--region of the bucket."
    )


def _continent(place: str) -> str:
    first = re.split(r"[-\d]", place.lower())[0]
    return {
        "us": "america",
        "northamerica": "america",
        "nam": "america",
        "eu": "europe",
        "eur": "europe",
    }.get(first, first)
