#!/usr/bin/env python3
"""The whole way, measured: a ring of real nodes and a client on this machine.

    cargo build --release
    benches/ring.py [--rounds 3] [--seconds 5] [--dir /var/tmp/ringbeam-bench] [--json FILE] [CASE..]

Cases (all of them when none is named): floor lone 64 256 shards 4k open seven reads durable snapshot restart. Each
figure is the median over the rounds; `floor` is measured in every round, because a virtual disk and shared cores are not the same
from one minute to the next. Needs nothing but Python 3.9 and the release binary (RINGBEAM=path for another one). Ends every
process it starts.
"""
import argparse, ctypes, json, mmap, multiprocessing, os, shutil, signal, socket, statistics, subprocess, sys, threading, time, urllib.request

BINARY = os.environ.get("RINGBEAM", "target/release/ringbeam")
TICK = os.sysconf("SC_CLK_TCK")


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Ring:
    """Founded by `dev`, then run node by node, so that files can be edited and nodes be ended one by one."""

    def __init__(self, directory, nodes=3, shards=1, edits=()):
        self.directory = directory
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)
        about = os.path.join(directory, "ring.json")
        dev = subprocess.Popen([BINARY, "dev", "--idle", "--nodes", str(nodes), "--shards", str(shards), "--dir", directory + "/d",
                                "--json", about], stdout=subprocess.DEVNULL, preexec_fn=die_with_parent)
        until(lambda: os.path.exists(about) and os.path.getsize(about) > 0, 60, "the ring was never ready")
        with open(about) as f:
            self.nodes = {n["id"]: n for n in json.load(f)["nodes"]}
        dev.terminate()
        dev.wait()
        self.running = {}
        for node in self.nodes.values():
            with open(node["config"]) as f:
                text = f.read()
            for key, value in edits:
                lines = [f"{key} = {value}" if line.startswith(key + " =") else line for line in text.split("\n")]
                text = "\n".join(lines)
            with open(node["config"], "w") as f:
                f.write(text)
            self.start(node["id"])
        self.endpoints = ",".join(n["client"] for n in self.nodes.values())
        until(lambda: all(self.healthy(n) for n in self.nodes), 60, "the ring does not serve")
        self.settle()

    def start(self, node):
        log = open(self.nodes[node]["log"], "a")
        self.running[node] = subprocess.Popen([BINARY, "serve", "--config", self.nodes[node]["config"]], stdout=log, stderr=log,
                                              preexec_fn=die_with_parent)

    def settle(self):
        """Until the log's segments are made: nothing is written for a while."""
        before, quiet, began = -1, 0, time.time()
        while quiet < 4 and time.time() - began < 60:
            written = sum(self.proc(n, "io", "write_bytes:") for n in self.running)
            quiet = quiet + 1 if written - before < 1 << 20 else 0
            before = written
            time.sleep(0.25)

    def healthy(self, node):
        try:
            return urllib.request.urlopen(f"http://{self.nodes[node]['admin']}/health", timeout=1).status == 200
        except OSError:
            return False

    def proc(self, node, name, key):
        try:
            with open(f"/proc/{self.running[node].pid}/{name}") as f:
                return next(int(line.split()[1]) for line in f if line.startswith(key))
        except (OSError, StopIteration):
            return 0

    def building(self):
        """Whether any node writes a snapshot."""
        return any(name == "building.tmp" for _, _, names in os.walk(self.directory) for name in names)

    def rss(self):
        return [self.proc(n, "status", "VmRSS:") * 1024 for n in self.running]

    def cpu(self):
        total = 0
        for process in self.running.values():
            with open(f"/proc/{process.pid}/stat") as f:
                fields = f.read().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICK

    def bench(self, seconds, *arguments, warmup=1):
        """One run: what `bench --json` says, and the servers' CPU between the window's ends."""
        out = os.path.join(self.directory, "bench.json")
        samples, over = [], threading.Event()

        def sample():
            while not over.is_set():
                samples.append((time.time_ns(), self.cpu()))
                time.sleep(0.05)
        sampler = threading.Thread(target=sample)
        sampler.start()
        command = [BINARY, "bench", "--endpoints", self.endpoints, "--seconds", str(seconds), "--warmup", str(warmup), "--json", out]
        ran = subprocess.run(command + [str(a) for a in arguments], capture_output=True, text=True, preexec_fn=lambda: (
            die_with_parent(), os.nice(-10) if os.geteuid() == 0 else None))
        over.set()
        sampler.join()
        if ran.returncode != 0:
            sys.exit(f"{' '.join(command)}: {ran.stderr}")
        with open(out) as f:
            result = json.load(f)
        nearest = lambda at: min(samples, key=lambda s: abs(s[0] - at))[1]
        result["cpu_us_per_op"] = 1e6 * (nearest(result["end_unix_ns"]) - nearest(result["start_unix_ns"])) / max(result["ops"], 1)
        return result

    def stop(self):
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def until(condition, seconds, why):
    end = time.time() + seconds
    while not condition():
        if time.time() > end:
            sys.exit(why)
        time.sleep(0.02)


def flush_times(path, seconds):
    """4 KiB O_DIRECT overwrites of a written file, each with fdatasync: microseconds."""
    block, size = mmap.mmap(-1, 4096), 256
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
    for at in range(size):
        os.pwrite(fd, block, at * 4096)
    os.fsync(fd)
    times, end, at = [], time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        began = time.perf_counter()
        os.pwrite(fd, block, at % size * 4096)
        os.fdatasync(fd)
        times.append((time.perf_counter() - began) * 1e6)
        at += 1
    os.close(fd)
    return times


def round_trips(seconds):
    """256 B there and back over loopback, between two processes: microseconds."""
    listener = socket.create_server(("127.0.0.1", 0))

    def echo():
        die_with_parent()
        peer, _ = listener.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := peer.recv(4096):
            peer.sendall(data)
    other = multiprocessing.Process(target=echo)
    other.start()
    times = []
    with socket.create_connection(listener.getsockname()) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            s.sendall(b"x" * 256)
            s.recv(4096)
            times.append((time.perf_counter() - began) * 1e6)
    other.join()
    listener.close()
    return times


def flusher(path, seconds, out):
    out.put(flush_times(path, seconds))


def floor(directory):
    os.makedirs(directory, exist_ok=True)
    alone = statistics.median(flush_times(f"{directory}/floor-0", 1))
    out = multiprocessing.Queue()
    writers = [multiprocessing.Process(target=flusher, args=(f"{directory}/floor-{n}", 1, out)) for n in range(3)]
    [w.start() for w in writers]
    three = statistics.median([t for _ in writers for t in out.get()])
    [w.join() for w in writers]
    trip = statistics.median(round_trips(1))
    shutil.rmtree(directory)
    return {"flush_us": alone, "flush_of_three_us": three, "round_trip_us": trip, "fair_floor_us": three + 2 * trip}


def figures(result):
    wanted = {"puts_per_s": result["ops_per_s"], "cpu_us_per_op": result["cpu_us_per_op"], "errors": result["errors"]}
    wanted.update({f"{p}_us": result["latency_us"][p] for p in ("p50", "p99", "p999", "max") if p in result["latency_us"]})
    return wanted


def load(ring, seconds, clients, inflight, *more):
    return figures(ring.bench(seconds, "--clients", clients, "--inflight", inflight, *more))


def case_of_three(directory, seconds, wanted):
    """What one ring of three with one shard can show."""
    found, ring = {}, Ring(directory)
    if "lone" in wanted:
        found["lone"] = load(ring, seconds, 1, 1)
    if "64" in wanted:
        found["64, 1 client"] = load(ring, seconds, 1, 64)
        found["64, 16 clients"] = load(ring, seconds, 16, 4)
    if "256" in wanted or "open" in wanted:
        found["256, 1 client"] = most = load(ring, seconds, 1, 256)
        found["256, 16 clients"] = load(ring, seconds, 16, 16)
    if "open" in wanted:
        found["open loop at half"] = load(ring, seconds, 16, 64, "--rate", int(most["puts_per_s"] / 2))
    if "4k" in wanted:
        found["64, 4 KiB"] = load(ring, seconds, 1, 64, "--value-size", 4096)
    if "reads" in wanted:
        for consistency in ("linearizable", "local"):
            found[f"64 gets, {consistency}"] = load(ring, seconds, 1, 64, "--op", "get", "--consistency", consistency)
    ring.stop()
    return found


def case_shards(directory, seconds):
    ring = Ring(directory, shards=2)
    found = {"256, 1 client, 2 shards": load(ring, seconds, 1, 256), "64, 1 client, 2 shards": load(ring, seconds, 1, 64)}
    ring.stop()
    return found


def case_seven(directory, seconds):
    ring = Ring(directory, nodes=7)
    found = {"256, 1 client, 7 nodes": load(ring, seconds, 1, 256), "64, 1 client, 7 nodes": load(ring, seconds, 1, 64)}
    ring.stop()
    return found


def case_durable(directory, seconds):
    found = {}
    for way in ("adaptive", "dsync", "fdatasync"):
        ring = Ring(directory, edits=[("durable_writes", f'"{way}"')])
        for inflight in (1, 64, 256):
            found[f"{inflight}, {way}"] = load(ring, seconds, 1, inflight)
        ring.stop()
    return found


MILLION = ("--keys", 1_000_000, "--value-size", 64)


def case_snapshot(directory, seconds):
    """1 million keys and an open load, in windows of 2 s, whose medians count: without a snapshot, with the default of 256 MiB, and
    with one due again and again. `under_way`: the share of windows that began beside a snapshot."""
    found, at = {}, ("--clients", 16, "--inflight", 16, "--rate", 20_000, *MILLION, "--skip-load")
    for name, after in (("no snapshot", 1 << 36), ("snapshots by default", 256 << 20), ("one each 64 MiB", 64 << 20)):
        ring = Ring(directory, edits=[("snapshot_after_bytes", after)])
        ring.bench(1, "--clients", 1, "--inflight", 256, *MILLION)
        ring.bench(6, *at)
        windows = []
        for _ in range(max(1, round(6 * seconds))):
            windows.append({"under_way": ring.building()} | figures(ring.bench(2, *at, warmup=0.3)))
        ring.stop()
        found[name] = {k: statistics.median(w[k] for w in windows) for k in windows[0]}
        found[name]["under_way"] = statistics.mean(w["under_way"] for w in windows)
    return found


def case_restart(directory, _):
    """A node with 1 million keys is killed and started again, with all of it in its log, and from a snapshot."""
    found = {}
    for name, after in (("from the log", 1 << 36), ("from a snapshot", 64 << 20)):
        ring = Ring(directory, edits=[("snapshot_after_bytes", after)])
        before = ring.rss()
        ring.bench(2, "--clients", 1, "--inflight", 256, *MILLION)
        time.sleep(3)
        if name == "from the log":
            found["memory"] = {"idle_node_bytes": statistics.median(before),
                               "bytes_per_key": (statistics.median(ring.rss()) - statistics.median(before)) / 1e6}
        ring.running[1].kill()
        ring.running[1].wait()
        began = time.time()
        ring.start(1)
        until(lambda: ring.healthy(1), 120, "it does not come back")
        found[f"restart {name}"] = {"seconds": time.time() - began}
        ring.stop()
    return found


CASES = ("floor", "lone", "64", "256", "shards", "4k", "open", "seven", "reads", "durable", "snapshot", "restart")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--dir", default="/var/tmp/ringbeam-bench")
    parser.add_argument("--json")
    parser.add_argument("cases", nargs="*", metavar="CASE", default=CASES)
    asked = parser.parse_args()
    unknown = set(asked.cases) - set(CASES)
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    rounds = []
    for number in range(asked.rounds):
        found = {}
        if "floor" in asked.cases:
            found["floor"] = floor(asked.dir)
        if set(asked.cases) & {"lone", "64", "256", "open", "4k", "reads"}:
            found.update(case_of_three(asked.dir, asked.seconds, asked.cases))
        for name, case in (("shards", case_shards), ("seven", case_seven), ("durable", case_durable), ("snapshot", case_snapshot),
                           ("restart", case_restart)):
            if name in asked.cases:
                found.update(case(asked.dir, asked.seconds))
        rounds.append(found)
        print(f"-- round {number + 1} of {asked.rounds}", flush=True)
        for name, values in found.items():
            print(f"{name:32}", "  ".join(f"{k} {v:,.2f}" for k, v in values.items()), flush=True)
    print(f"-- medians of {asked.rounds}")
    medians = {n: {k: statistics.median(r[n][k] for r in rounds) for k in rounds[0][n]} for n in rounds[0]}
    for name, values in medians.items():
        print(f"{name:32}", "  ".join(f"{k} {v:,.2f}" for k, v in values.items()))
    if asked.json:
        with open(asked.json, "w") as f:
            json.dump({"medians": medians, "rounds": rounds}, f, indent=1)


if __name__ == "__main__":
    main()
