"""What larger jobs would cost, from the constants that were measured (docs/cost.md explains the terms)."""
import math

# What each term is computed from: the row's name, and its unit in seconds or bytes.
CONSTANTS = {
    "pause": ("pause-job", 1e-3, "s, of the 2 GiB job, its own scan included"),
    "scan": ("limit-scan", 1e-3, "s/GiB, page tables scanned and protected"),
    "fault": ("limit-protect", 1e-6, "s/page, first write after that"),
    "cost": ("cost-pawl", 1, "core-s/GiB changed, in pawl"),
    "page": ("limit-lz4page", 1, "bytes of a changed page, compressed"),
    "node": ("sparse-node", 1, "bytes of page table and packing for a changed page"),
    "write": ("limit-write", 1e9, "bytes/s, written and synced"),
    "recovery": ("recovery", 1, "s, of 2 GiB"),
}
GIB = 1 << 30
REFERENCE_GIB = 2
CORES = 64  # of the node that the job keeps busy
SECONDS = 600  # between snapshots
DAY = 86400


class Missing(Exception):
    """A constant has not been measured."""


def constants(results):
    rows = {row["name"]: row["value"] for entry in results["groups"].values() for row in entry["rows"]}
    scaled = [name for name, entry in results["groups"].items() if entry["scale"] != 1 and name != "limits"]
    found = {}
    for key, (name, unit, _) in CONSTANTS.items():
        if rows.get(name) is None:
            raise Missing(f"{name} has not been measured")
        found[key] = rows[name] * unit
    return found, scaled


def interval(cost, mtbf=DAY):
    """As watchdog/interval.c chooses it, without bounds."""
    part = cost / (2 * mtbf)
    return mtbf if part >= 1 else math.sqrt(2 * cost * mtbf) * (1 + math.sqrt(part) / 3 + part / 9) - cost


def snapshot(k, gib, rate, seconds):
    """One periodic snapshot of a job of so many GiB that writes rate bytes/s to pages all over."""
    pages = gib * GIB / 4096
    changed = pages * -math.expm1(-rate * seconds / (gib * GIB))
    pause = k["pause"] + k["scan"] * (gib - REFERENCE_GIB)
    scans = 3 * k["scan"] * gib  # two rounds before the pause, and that of the pause
    cpu = scans + changed * 4096 / GIB * k["cost"]
    return dict(changed=changed * 4096 / GIB, pause=pause, cpu=cpu, faults=changed * k["fault"],
                data=changed * k["page"], tables=changed * k["node"],
                wall=max(cpu, changed * (k["page"] + k["node"]) / k["write"]))


def print_model(results):
    k, scaled = constants(results)
    print("constants:")
    for key, (_, _, text) in CONSTANTS.items():
        print(f"  {key:9} {k[key]:.4g} {text}")
    if scaled:
        print(f"  measured with smaller sizes, so not to be relied on: {', '.join(scaled)}")
    for title, rate_of in (("320 MiB/s written at any size", lambda gib: 320 << 20),
                           ("a tenth of the memory rewritten meanwhile", lambda gib: gib * GIB * 0.1 / SECONDS)):
        print(f"\n{title}, a snapshot every {SECONDS} s, {CORES} cores:")
        print(f"  {'size':>9} {'changed':>10} {'pause':>9} {'pawl':>12} {'faults':>12} {'stored':>10} {'of it tables':>12} "
              f"{'wall':>8} {'slowdown':>9} {'recovery':>9} {'best every':>10}")
        for gib in (2, 16, 128, 1024):
            s = snapshot(k, gib, rate_of(gib), SECONDS)
            lost = s["pause"] + (s["cpu"] + s["faults"]) / CORES
            print(f"  {gib:5} GiB {s['changed']:6.1f} GiB {s['pause'] * 1000:6.0f} ms {s['cpu']:8.1f} c-s {s['faults']:8.2f} c-s "
                  f"{(s['data'] + s['tables']) / GIB:6.1f} GiB {s['tables'] / GIB:8.2f} GiB {s['wall']:6.1f} s "
                  f"{100 * lost / SECONDS:7.2f} % {k['recovery'] * gib / REFERENCE_GIB:7.1f} s {interval(lost):8.0f} s")
