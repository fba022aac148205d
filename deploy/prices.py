"""Reads the dated file of prices that plans and warnings are made with."""

import dataclasses
import datetime
import json
import pathlib

DEFAULT_FILE = str(pathlib.Path(__file__).parent / "prices.json")


@dataclasses.dataclass(frozen=True)
class Prices:
    """Prices as somebody wrote them down.

    Attributes:
        path: of the file.
        as_of: the date they are of.
        spot_share: of a price that spot capacity costs.
        transfer_per_gb: "same_continent" and "other_continent" -> USD.
        machines: type -> USD an hour, with the accelerators built in.
        accelerators: type -> USD an hour each, where they are attached.
        unchecked: names whose price was not compared on that date.
    """

    path: str
    as_of: str
    spot_share: float
    transfer_per_gb: dict[str, float]
    machines: dict[str, float]
    accelerators: dict[str, float]
    unchecked: frozenset[str]

    def describe(self) -> str:
        return f"prices as of {self.as_of}, {self.path}"

    def per_hour(
        self, machine_type: str, accelerator_type: str = "", count: int = 0
    ) -> float:
        """USD an hour of one machine with its attached accelerators.

        Raises:
            ValueError: if the file has no price of it.
        """
        parts = [(self.machines, "machines_per_hour", machine_type, 1)]
        attached = accelerator_type and machine_type.startswith("n1-")
        if attached:
            parts.append(
                (
                    self.accelerators,
                    "accelerators_per_hour",
                    accelerator_type,
                    count,
                )
            )
        for table, section, name, _ in parts:
            if name not in table:
                raise ValueError(
                    f"{self.path} has no price of {name}: add it to {section}, "
                    f"or choose one of {', '.join(sorted(table))}."
                )
        return sum(table[name] * number for table, _, name, number in parts)


def read(path: str) -> Prices:
    """Reads a file like `prices.json`.

    Raises:
        ValueError: if it is not such a file.
        OSError: if it cannot be read.
    """
    with open(path, encoding="utf-8") as file:
        text = file.read()
    try:
        content = json.loads(text)
        sections = [
            {
                name: (float(row["price"]), row["checked"])
                for name, row in s.items()
            }
            for s in (
                content["machines_per_hour"],
                content["accelerators_per_hour"],
            )
        ]
        machines, accelerators = sections
        table = Prices(
            path,
            datetime.date.fromisoformat(content["as_of"]).isoformat(),
            float(content["spot_share"]),
            {
                kind: float(content["transfer_per_gb"][kind])
                for kind in ("same_continent", "other_continent")
            },
            {name: price for name, (price, _) in machines.items()},
            {name: price for name, (price, _) in accelerators.items()},
            frozenset(
                name
                for section in sections
                for name, (_, checked) in section.items()
                if not checked
            ),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no file of prices like {DEFAULT_FILE} "
            f"({type(error).__name__}: {error})."
        ) from error
    numbers = [
        table.spot_share,
        *table.transfer_per_gb.values(),
        *table.machines.values(),
        *table.accelerators.values(),
    ]
    if not all(0 <= number < 1e6 for number in numbers):
        raise ValueError(f"{path}: prices must be numbers of at least 0.")
    return table
