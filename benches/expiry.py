#!/usr/bin/env python3
"""What a million keys that go at once do to everybody else's writes.

    cargo build --release
    benches/expiry.py [--keys 1000000] [--rate 4000] [--seconds 30] [--rounds 3] [--dir /var/tmp/ringbeam-expiry]

A ring of three nodes and one shard on this machine. One lease gets so many keys of 16 B with values of 64 B. Then an open loop writes
256 B to other keys at a fixed rate, timed from when each write was due: once undisturbed, and once while the lease is revoked a third of
the way in, from which moment all its keys are due. Prints p50, p99, p99.9 and the longest of both, how long the keys took to go (from the first 19 of 20), and the
load of the machine. Needs nothing but Python 3.9 and the release binary (RINGBEAM=path for another one). Ends every process it starts.
"""
import argparse, ctypes, json, os, shutil, signal, statistics, subprocess, threading, time

BINARY = os.environ.get("RINGBEAM", "target/release/ringbeam")


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def command(endpoints, *arguments):
    done = subprocess.run([BINARY, *arguments, "--endpoints", endpoints], capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise SystemExit(f"{arguments[0]}: {done.stderr[-500:]}")
    return done.stdout


def bench(endpoints, directory, *arguments):
    path = os.path.join(directory, "bench.json")
    command(endpoints, "bench", "--json", path, *arguments)
    with open(path) as f:
        return json.load(f)


def keys(endpoints):
    status = json.loads(command(endpoints, "status", "--json"))
    return max((s.get("keys", 0) for s in find(status, "keys")), default=0)


def find(tree, name):
    """Every object in it that has this name."""
    if isinstance(tree, dict):
        if name in tree:
            yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for part in tree:
            yield from find(part, name)


def round_of(options, number):
    directory = os.path.join(options.dir, str(number))
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    about = os.path.join(directory, "ring.json")
    dev = subprocess.Popen([BINARY, "dev", "--idle", "--nodes", "3", "--shards", "1", "--dir", directory + "/d", "--json", about],
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=die_with_parent)
    try:
        began = time.time()
        while not (os.path.exists(about) and os.path.getsize(about) > 0):
            if time.time() - began > 120:
                raise SystemExit("the ring was never ready")
            time.sleep(0.1)
        with open(about) as f:
            endpoints = ",".join(node["client"] for node in json.load(f)["nodes"])
        lease = command(endpoints, "lease", "grant", "--ttl", "7d").strip()
        bench(endpoints, directory, "--namespace", "going", "--keys", str(options.keys), "--value-size", "64", "--lease", lease,
              "--seconds", "0.2", "--warmup", "0", "--clients", "8", "--inflight", "32")
        load = ["--rate", str(options.rate), "--seconds", str(options.seconds), "--warmup", "3", "--keys", "10000", "--clients", "16"]
        bench(endpoints, directory, *load)  # the log has gone round once, and a snapshot of the million keys has been taken
        before = bench(endpoints, directory, *load, "--skip-load")
        gone = []

        def revoke():
            time.sleep(3 + options.seconds / 3)
            command(endpoints, "lease", "revoke", lease)
            began = time.time()
            while time.time() - began < 300:
                # A status of a state of 50,000 keys or fewer holds the digest of all of them, which takes its time: not asked for here.
                left = keys(endpoints) - 10_000
                if left <= max(50_000, options.keys // 20):
                    gone.append((time.time() - began) / (1 - left / options.keys))
                    return
                time.sleep(0.5)

        thread = threading.Thread(target=revoke)
        thread.start()
        during = bench(endpoints, directory, *load, "--skip-load")
        thread.join()
        return before, during, gone[0] if gone else float("inf")
    finally:
        dev.terminate()
        dev.wait()
        shutil.rmtree(directory, ignore_errors=True)


def latency(result, name):
    """A percentile of a run, microseconds."""
    return next(find(result, "latency_us"))["latency_us"][name]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=4_000)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", default="/var/tmp/ringbeam-expiry")
    options = parser.parse_args()
    names = ["p50", "p99", "p999", "max"]
    rows = []
    for number in range(options.rounds):
        before, during, seconds = round_of(options, number)
        rows.append([latency(before, n) for n in names] + [latency(during, n) for n in names] + [seconds])
        values = "  ".join(f"{v:10.1f}" for v in rows[-1])
        print(f"round {number + 1}: {values}   load {os.getloadavg()[0]:.1f}", flush=True)
    print(f"columns: {', '.join(names)} undisturbed; the same while {options.keys} keys go; seconds until they are gone")
    print("medians: " + "  ".join(f"{statistics.median(column):10.1f}" for column in zip(*rows)))


if __name__ == "__main__":
    main()
