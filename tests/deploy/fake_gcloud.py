#!/usr/bin/env python3
"""Stands in for `gcloud`, and for `sudo` on the one VM that it knows.

Links of these names lie in a directory that has the VM's state and container,
a list of calls, and a plan: by verb, what each call does in place of its work.
"""

import json
import pathlib
import subprocess
import sys
import time

here, name = pathlib.Path(sys.argv[0]).parent, pathlib.Path(sys.argv[0]).name
machine, container, plan = (here / x for x in ("machine", "container", "plan"))
with open(here / "calls", "a") as file:
    file.write(json.dumps([name, *sys.argv[1:]]) + "\n")
verb = sys.argv[4 if name == "gcloud" else 2]
steps = json.loads(plan.read_text())
step = steps[verb].pop(0) if steps.get(verb) else None
# Whole or not at all: this may be killed at any moment.
(here / "next").write_text(json.dumps(steps))
(here / "next").rename(plan)

if step == "sleep":
    if verb == "create":
        machine.write_text("CREATING")
    time.sleep(60 if verb == "ssh" else 1)
elif step in ("PREEMPTED", "REPAIRING"):
    machine.write_text(step)
    sys.exit(255 if step == "PREEMPTED" else 1)
elif verb == "wait":
    sys.exit(print(step or 0))
elif isinstance(step, int):
    sys.stderr.write(
        "WARNING: x.\nERROR: (gcloud) PERMISSION_DENIED.\n\nHelp.\n"
    )
    sys.exit(step)

if verb == "create":
    machine.write_text("READY")
elif verb == "container":
    sys.exit(not container.exists())
elif verb == "run":
    container.touch()
elif verb == "logs":
    print("epoch 1")
elif not machine.exists():
    sys.exit("ERROR: NOT_FOUND: Resource was not found.")
elif verb == "describe":
    print(machine.read_text())
elif verb == "ssh":
    script = sys.argv[-1].removeprefix("--command=")
    code = subprocess.run(["bash", "-c", script]).returncode
    sys.exit(255 if step == "break" else code)
elif machine.read_text() == "CREATING":
    sys.exit("ERROR: FAILED_PRECONDITION: Half created.")
elif verb == "delete":
    machine.unlink()
    container.unlink(missing_ok=True)
