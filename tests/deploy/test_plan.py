"""Plans add up, and say which figures were measured, given and estimated."""

import json
import subprocess
import sys

import pytest

from deploy import plan, prices
from deploy.vertex import machines
from tests.conftest import ROOT

COSTS = plan.StepCosts(
    measured_on="2 cores",
    date="2026-11-01",
    num_cpus=2,
    image_size=224,
    input=1000.0,
    forward=120.0,
    fine_tune={2: 100.0, 4: 60.0, 9: 30.0},
)


def find_speed(device, machine=None, image_size=224, blocks=2, given=0.0):
    return plan.find_speed(
        device, machine, COSTS, image_size, blocks, given, utilisation=0.05
    )


def test_measured_machine_is_as_fast_as_measured():
    speed = find_speed("laptop")
    assert (speed.forward, speed.fine_tune) == (120.0, 100.0)
    assert speed.source == "measured on 2 cores, 2026-11-01"
    # Three blocks cost at most what four were measured to.
    assert find_speed("laptop", blocks=3).fine_tune == 60.0
    # A quarter of the pixels.
    small = find_speed("laptop", image_size=112)
    assert (small.forward, small.fine_tune) == (480.0, 400.0)
    assert "scaled by area" in small.source


def test_speed_of_other_hardware_is_marked_as_an_estimate():
    l4 = machines.complete(machines.Machine("g2-standard-8"))
    speed = find_speed("g2-standard-8", l4)
    # 121 TFLOP/s at 5 %, an image takes twice 0.39 G multiply-adds.
    assert speed.forward == pytest.approx(121e12 * 0.05 / 0.78e9)
    assert speed.fine_tune == pytest.approx(speed.forward / 1.2)
    assert speed.source.startswith("estimated: 5.0% of NVIDIA_L4's peak")
    cpu = find_speed("n1-standard-8", machines.Machine("n1-standard-8"))
    assert (cpu.forward, cpu.fine_tune) == (480.0, 400.0)
    assert cpu.source.startswith("estimated")


def test_speed_that_the_user_measured_wins():
    l4 = machines.complete(machines.Machine("g2-standard-8"))
    speed = find_speed("g2-standard-8", l4, given=500.0)
    assert (speed.forward, speed.fine_tune) == (600.0, 500.0)
    assert speed.source.startswith("given by you")


def test_input_limits_fast_devices():
    speed = plan.Speed(4000.0, 3000.0, "").scaled(2.0, limit=7000.0)
    assert (speed.forward, speed.fine_tune) == (7000.0, 6000.0)


def test_every_machine_with_accelerators_has_vcpus_and_a_peak():
    for name in (*machines._BUILT_IN, *machines._TPU_V5E):
        machine = machines.complete(machines.Machine(name))
        assert plan.num_cpus(name) >= 4
        if name != "a4-highgpu-8g":
            assert find_speed(name, machine).forward > 0
    b200 = machines.complete(machines.Machine("a4-highgpu-8g"))
    with pytest.raises(ValueError, match=r"NVIDIA_B200.*--images_per_second"):
        find_speed("a4-highgpu-8g", b200)


def test_phases_count_every_pass():
    speed = plan.Speed(100.0, 50.0, "")
    phases = plan.plan_phases(1000, speed, True, 8, 10)
    assert [(p.name, p.passes) for p in phases] == [
        ("features", 9000),
        ("fine-tuning", 10_000),
        ("evaluation", 2000),
    ]
    assert [p.hours * 3600 for p in phases] == pytest.approx([90, 200, 20])
    names = [p.name for p in plan.plan_phases(1000, speed, False, 8, 10)]
    assert names == ["fine-tuning", "evaluation"]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "deploy.plan", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_cost_follows_the_users_prices_and_speed(tmp_path):
    costs = tmp_path / "step_costs.json"
    costs.write_text(
        json.dumps(
            {
                "measured_on": "my machine",
                "date": "2026-11-02",
                "num_cpus": 1,
                "image_size": 224,
                "images_per_second": {
                    "input": 1e6,
                    "forward": 100,
                    "fine_tune": {"9": 100},
                },
            }
        )
    )
    table = json.loads((ROOT / "deploy/prices.json").read_text())
    table |= {"as_of": "2026-11-03", "spot_share": 0.5}
    table["machines_per_hour"]["n1-standard-4"]["price"] = 1.0
    table["accelerators_per_hour"]["NVIDIA_TESLA_T4"]["price"] = 2.0
    price_file = tmp_path / "prices.json"
    price_file.write_text(json.dumps(table))
    done = run(
        "--images=36000",
        "--device=n1-standard-4",
        "--accelerator_type=NVIDIA_TESLA_T4",
        "--num_workers=2",
        "--spot",
        "--images_per_second=100",
        "--scaling_efficiency=0.5",
        "--startup_minutes=60",
        "--feature_views=3",
        "--fine_tune_epochs=4",
        f"--step_costs={costs}",
        f"--price_file={price_file}",
    )
    assert done.returncode == 0, done.stderr
    # 36,000 images 4 + 4 + 2 times at 100 a second, and an hour to start; two
    # machines of $3 at half the price.
    assert "\n2.00 hours, $6.00\n" in done.stdout
    assert "given by you" in done.stdout and "2026-11-03" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--device=g2-standard-7"], "g2-standard-7 is none"),
        (["--device=g2-standard-48"], "has no price of g2-standard-48"),
        (["--num_workers=2"], "one machine of your own"),
        (["--step_costs=none.json"], "none.json"),
        (["--price_file=setup.py"], "no file of prices"),
        (["--step_costs=deploy/prices.json"], "not what deploy.measure writes"),
    ],
)
def test_wrong_flag_or_file_is_refused_in_a_sentence(arguments, sentence):
    done = run(*arguments)
    assert done.returncode == 1
    assert sentence in done.stderr and len(done.stderr.splitlines()) == 1


def test_price_file_is_dated_and_has_what_the_plan_needs():
    table = prices.read(prices.DEFAULT_FILE)
    for name in table.machines:
        if name != "laptop":
            assert not machines.find_problem(
                machines.complete(machines.Machine(name))
            )
    assert table.per_hour("n1-standard-4", "NVIDIA_TESLA_T4", 2) == (
        table.machines["n1-standard-4"]
        + 2 * table.accelerators["NVIDIA_TESLA_T4"]
    )
    # Built-in accelerators are in the price of the machine.
    assert (
        table.per_hour("g2-standard-8", "NVIDIA_L4", 1)
        == (table.machines["g2-standard-8"])
    )
