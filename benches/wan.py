#!/usr/bin/env python3
"""Seven regions on one machine: a ring whose nodes are as far from each other as real ones, measured whole and with regions cut off.

    cargo build --release
    sudo benches/wan.py [--matrix planet|metro] [--read-lease MS] [--seconds 15] [--dir /var/tmp/ringbeam-wan] [--json FILE] [CASE..]

Cases (all when none is named): healthy one leader three four. Each region is a network namespace with a node and clients of its own; what
they send each other passes a router in user space that holds every packet back for the time between the two regions, so that
handshakes, retransmissions and windows are those of long ways. What is cut is dropped in silence, as a broken line does.

    region 1: node, clients ── tun ──┐
    region 2: node, clients ── tun ──┤ router: a delay for each pair, or nothing at all
    ...                              ┘

Needs root, iproute2 and /dev/net/tun. Everything it makes ends with it. The round trips are round figures of the kind that large
clouds publish, not measurements; what the nodes add is measured on this machine's cores, which seven nodes and their clients share.
"""
import argparse, ctypes, fcntl, heapq, json, os, re, select, shutil, signal, socket, statistics, struct, subprocess, sys, threading, time

# Round trips between regions, milliseconds: the upper half of a table, in the order of the names.
MATRICES = {
    "planet": (["us-east", "us-west", "eu-west", "eu-central", "ap-northeast", "ap-southeast", "sa-east"],
               [[60, 70, 90, 150, 215, 115], [125, 145, 100, 165, 175], [25, 205, 175, 180], [225, 160, 200], [70, 255], [320]]),
    # Seven sites within some hundred kilometres: what the promise of 8 ms is about.
    "metro": (["a", "b", "c", "d", "e", "f", "g"],
              [[1, 1, 2, 2, 3, 4], [1, 2, 2, 3, 4], [1, 2, 2, 3], [1, 2, 3], [1, 2], [1]]),
}
TIMERS = {"planet": "heartbeat_ms = 300\nelection_timeout_min_ms = 1500\nelection_timeout_max_ms = 3000\n", "metro": ""}
LEADER = 1
VERBOSE = False
LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent():
    LIBC.prctl(1, signal.SIGKILL)


def round_trips(matrix):
    names, half = MATRICES[matrix]
    full = [[0.0] * len(names) for _ in names]
    for i, row in enumerate(half):
        for k, ms in enumerate(row):
            full[i][i + 1 + k] = full[i + 1 + k][i] = float(ms)
    return names, full


def address(region):
    return f"10.88.{region}.1"


class World:
    """The regions' namespaces and the router between them. Regions count from 1."""

    def __init__(self, full):
        self.homes, tuns = {}, {}
        for region in range(1, len(full) + 1):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            pid = os.fork()
            if pid == 0:
                self.settle(region, theirs)
            theirs.close()
            data, fds, _, _ = socket.recv_fds(ours, 16, 1)
            if data != b"ready":
                sys.exit("wan.py: no namespace could be made: root, iproute2 and /dev/net/tun are needed")
            self.homes[region], tuns[region] = pid, fds[0]
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.router = os.fork()
        if self.router == 0:
            self.control.close()
            route(tuns, [[ms / 2000 for ms in row] for row in full], theirs)
        theirs.close()
        for fd in tuns.values():
            os.close(fd)

    @staticmethod
    def settle(region, parent):
        die_with_parent()
        if LIBC.unshare(0x40000000) != 0:
            os._exit(1)
        tun = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH", b"wan0", 0x1001))
        for words in (["link", "set", "lo", "up"], ["addr", "add", f"{address(region)}/16", "dev", "wan0"],
                      ["link", "set", "wan0", "mtu", "9000", "txqueuelen", "10000", "up"]):
            subprocess.run(["ip", *words], check=True)
        socket.send_fds(parent, [b"ready"], [tun])
        os.close(tun)
        while True:
            signal.pause()

    def cut(self, regions):
        """These regions reach nobody but themselves, each alone."""
        self.control.send((json.dumps(sorted(regions)) + "\n").encode())
        self.control.recv(1)

    def within(self, region, command):
        return ["nsenter", f"--net=/proc/{self.homes[region]}/ns/net", *command]

    def end(self):
        for pid in [self.router, *self.homes.values()]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def route(tuns, delays, control):
    """The router's process: each packet leaves when its way is over."""
    die_with_parent()
    os.nice(-10)
    for fd in tuns.values():
        os.set_blocking(fd, False)
    by_fd = {fd: region for region, fd in tuns.items()}
    line, cut, number, words = [], set(), 0, b""
    while True:
        now = time.monotonic()
        while line and line[0][0] <= now:
            _, _, fd, packet = heapq.heappop(line)
            try:
                os.write(fd, packet)
            except OSError:
                pass  # a full queue drops, as queues do
        wait = max(0, line[0][0] - time.monotonic()) if line else None
        for fd in select.select([*by_fd, control], [], [], wait)[0]:
            if fd is control:
                words += control.recv(4096)
                while b"\n" in words:
                    first, words = words.split(b"\n", 1)
                    cut = set(json.loads(first))
                    control.send(b".")
                continue
            source, now = by_fd[fd], time.monotonic()
            for _ in range(64):
                try:
                    packet = os.read(fd, 65536)
                except BlockingIOError:
                    break
                target = packet[18] if len(packet) >= 20 and packet[0] >> 4 == 4 else 0
                if target not in tuns or target == source or source in cut or target in cut:
                    continue
                number += 1
                heapq.heappush(line, (now + delays[source - 1][target - 1], number, tuns[target], packet))


class Ring:
    def __init__(self, world, names, matrix, read_lease_ms, directory, binary):
        self.world, self.names, self.binary, self.processes = world, names, binary, []
        founders = ", ".join(f'{{ id = {n}, peer = "{address(n)}:7702" }}' for n in world.homes)
        for n in world.homes:
            home = os.path.join(directory, names[n - 1])
            os.makedirs(home)
            config = os.path.join(home, "node.toml")
            with open(config, "w") as f:
                f.write(f'[node]\nid = {n}\ndata_dir = "{home}/data"\nregion = "{names[n - 1]}"\npin_cores = false\n'
                        f'[listen]\nclient = "{address(n)}:7701"\npeer = "{address(n)}:7702"\nadmin = ""\n'
                        f'[ring]\nfounders = [{founders}]\n[log]\nsegment_bytes = 16777216\nspare_segments_count = 2\n'
                        f'[timers]\n{TIMERS[matrix]}read_lease_ms = {read_lease_ms}\n')
            log = open(os.path.join(home, "log"), "w")
            self.processes.append(subprocess.Popen(world.within(n, [binary, "serve", "--config", config]), stdout=log, stderr=log,
                                                   preexec_fn=die_with_parent))

    def run(self, region, *words, timeout=60):
        env = {**os.environ, "RINGBEAM_ENDPOINTS": f"{address(region)}:7701", "RINGBEAM_REGION": self.names[region - 1]}
        return subprocess.run(self.world.within(region, [self.binary, *words]), env=env, capture_output=True, text=True, timeout=timeout)

    def bench(self, region, *words):
        env = {**os.environ, "RINGBEAM_ENDPOINTS": f"{address(region)}:7701", "RINGBEAM_REGION": self.names[region - 1]}
        out = f"/tmp/ringbeam-wan-{os.getpid()}-{region}-{len(words)}-{time.monotonic_ns()}.json"
        words = ["bench", *words, "--json", out]
        return Load(subprocess.Popen(self.world.within(region, [self.binary, *words]), env=env, stdout=subprocess.PIPE,
                                     stderr=subprocess.STDOUT, text=True, preexec_fn=die_with_parent), out)

    def leader(self, region=LEADER):
        try:
            return json.loads(self.run(region, "status", "--json", timeout=20).stdout)["shards"][0]["leader"]
        except (ValueError, KeyError, IndexError, subprocess.TimeoutExpired):
            return 0

    def lead(self, region):
        until(lambda: self.leader() != 0, 60, "the ring has no leader")
        for _ in range(10):
            if self.leader() == region:
                return
            self.run(LEADER, "ring", "transfer", "--to", str(region), "--timeout-ms", "10000")
            time.sleep(1)
        sys.exit(f"wan.py: {self.names[region - 1]} does not take the lead")

    def end(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait()


class Load:
    """A load generator in a region, and what it says each second."""

    def __init__(self, process, out):
        self.process, self.out, self.lines = process, out, []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for text in self.process.stdout:
            found = re.search(r"(\d+) s +([\d,]+) ops/s(?: +p50 +([\d.,]+) (us|ms|s) )?.*errors ([\d,]+)", text)
            if found:
                number = lambda text: float(text.replace(",", ""))
                us = number(found[3]) * {"us": 1, "ms": 1000, "s": 1_000_000}[found[4]] if found[3] else 0.0
                self.lines.append((time.monotonic(), int(number(found[2])), us, int(number(found[5]))))

    def result(self):
        self.process.wait()
        self.reader.join()
        try:
            with open(self.out) as f:
                return json.load(f)
        except (OSError, ValueError):
            return None
        finally:
            if os.path.exists(self.out):
                os.remove(self.out)


def until(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"wan.py: {what} after {seconds} s")
        time.sleep(0.2)


def latency(result, name):
    return result["latency_us"][name] / 1000 if result else float("nan")


def healthy(ring, names, full, seconds):
    """Every region writes and reads at once, at rates that no core is busy with."""
    quorum = len(names) // 2 + 1
    # The leader's own disk and the nearest others make a quorum.
    to_quorum = sorted(full[LEADER - 1])[quorum - 1]
    common = ["--clients", "1", "--inflight", "64", "--keys", "200", "--seconds", str(seconds), "--warmup", "2", "--timeout-ms", "5000"]
    rows = {}
    for kind, words in {"put": ["--op", "put", "--rate", "20"], "linearizable": ["--op", "get", "--rate", "50"],
                        "local": ["--op", "get", "--consistency", "local", "--rate", "200"]}.items():
        loads = {n: ring.bench(n, *words, *common, *(["--skip-load"] if kind != "put" else [])) for n in ring.world.homes}
        rows[kind] = {n: load.result() for n, load in loads.items()}
    print(f"\n{len(names)} regions, leader in {names[LEADER - 1]}, a quorum is {to_quorum:g} ms of round trip from it; milliseconds\n")
    print("| region | to the leader | floor of a write | write p50, p99 | linearizable read p50, p99 | local read p50, p99 |")
    print("|---|---|---|---|---|---|")
    found = []
    for n in ring.world.homes:
        far = full[LEADER - 1][n - 1]
        cell = {kind: (latency(rows[kind][n], "p50"), latency(rows[kind][n], "p99")) for kind in rows}
        print(f"| {names[n - 1]} | {far:g} | {far + to_quorum:g} | " + " | ".join(f"{a:.1f}, {b:.1f}" for a, b in cell.values()) + " |")
        found.append({"region": names[n - 1], "to_leader_ms": far, "floor_ms": far + to_quorum,
                      **{kind: {"p50_ms": a, "p99_ms": b} for kind, (a, b) in cell.items()}})
    return {"to_quorum_ms": to_quorum, "regions": found}


def cut_off(ring, names, cut, seconds):
    """Loads in a region that stays and in one that goes; the regions `cut` are each alone for a while."""
    stays = next(n for n in ring.world.homes if n not in cut and n != LEADER)
    goes = cut[-1]
    total = 3 * seconds
    common = ["--clients", "1", "--inflight", "256", "--keys", "50", "--seconds", str(total), "--warmup", "0", "--timeout-ms", "2000"]
    loads = {
        "writes where a quorum is" if len(cut) <= 3 else "writes elsewhere": ring.bench(stays, "--op", "put", "--rate", "20", *common),
        "local reads where it is cut": ring.bench(goes, "--op", "get", "--consistency", "local", "--rate", "50", *common),
    }
    for name, words in {"reads of a session": ["session"], "bounded reads, 1 s": ["bounded", "--max-age", "1s"],
                        "the same, or stale": ["bounded", "--max-age", "1s", "--stale-ok"], "linearizable reads": ["linearizable"]}.items():
        loads[f"{name}, there"] = ring.bench(goes, "--op", "get", "--consistency", *words, "--rate", "20", *common)
    until(lambda: all(load.lines for load in loads.values()), 60, "a load does not begin")
    # From here on only what goes through established connections.
    loads["writes where it is cut"] = ring.bench(goes, "--op", "put", "--rate", "20", "--skip-load", *common)
    until(lambda: loads["writes where it is cut"].lines, 60, "a load does not begin")
    time.sleep(2)
    began = time.monotonic()
    ring.world.cut(cut)
    ages = []
    while time.monotonic() < began + seconds:
        said = ring.run(goes, "get", "bench", "--consistency", "local", "--json", "--timeout-ms", "2000", timeout=20)
        try:
            ages.append((time.monotonic() - began, json.loads(said.stdout).get("age_ms")))
        except ValueError:
            pass
        time.sleep(1)
    healed = time.monotonic()
    ring.world.cut([])
    said = {}
    for name, load in loads.items():
        load.result()
        if VERBOSE:
            print(name, [(round(l[0] - began, 1), l[1], round(l[2] / 1000), l[3]) for l in load.lines])
        during = [line for line in load.lines if began + 1 < line[0] <= healed]
        after = [line for line in load.lines if line[0] > healed]
        before = [line for line in load.lines if line[0] <= began]
        served = [line for line in during if line[1] > 0]
        first = next((line[0] - began for line in load.lines if line[0] > began + 1 and line[1] > 0), None)
        again = next((line[0] - healed for line in after if line[1] > 0), None)
        said[name] = {
            "before_p50_ms": statistics.median(l[2] for l in before if l[1]) / 1000 if any(l[1] for l in before) else None,
            "served_share": round(len(served) / max(1, len(during)), 2),
            "during_p50_ms": statistics.median(l[2] for l in served) / 1000 if served else None,
            "served_again_within_s": round(first, 1) if first is not None else None,
            "after_heal_within_s": round(again, 1) if again is not None else None,
        }
    print(f"\ncut off, each alone: {', '.join(names[n - 1] for n in cut)}, for {seconds} s (leader was {names[LEADER - 1]})\n")
    print("| load | before: p50 | served in so many of the seconds | during: p50 | served within (cut) | served within (healed) |")
    print("|---|---|---|---|---|---|")
    show = lambda value, unit: "-" if value is None else f"{value:g} {unit}"
    for name, row in said.items():
        print(f"| {name} | {show(row['before_p50_ms'], 'ms')} | {row['served_share']:.0%} | {show(row['during_p50_ms'], 'ms')} | "
              f"{show(row['served_again_within_s'], 's')} | {show(row['after_heal_within_s'], 's')} |")
    known = [(round(at, 1), age) for at, age in ages if age is not None]
    if known:
        print(f"\nattested age of local reads there, (seconds since the cut, ms): {known[:: max(1, len(known) // 6)]}")
    return {"cut": [names[n - 1] for n in cut], "seconds": seconds, "loads": said, "ages": ages}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", choices=["healthy", "one", "leader", "three", "four", []])
    parser.add_argument("--matrix", choices=MATRICES, default="planet")
    parser.add_argument("--read-lease", type=int, default=0, metavar="MS", help="timers.read_lease_ms of all nodes")
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--dir", default="/var/tmp/ringbeam-wan")
    parser.add_argument("--binary", default=os.environ.get("RINGBEAM", "target/release/ringbeam"))
    parser.add_argument("--json", help="file for all figures")
    parser.add_argument("--verbose", action="store_true", help="each second of each load: since the cut, answered, p50 in ms, errors")
    args = parser.parse_args()
    global VERBOSE
    VERBOSE = args.verbose
    cases = args.cases or ["healthy", "one", "leader", "three", "four"]
    if os.geteuid() != 0:
        sys.exit("wan.py: it makes network namespaces, which needs root")
    names, full = round_trips(args.matrix)
    shutil.rmtree(args.dir, ignore_errors=True)
    os.makedirs(args.dir)
    world = World(full)
    ring = Ring(world, names, args.matrix, args.read_lease, args.dir, os.path.realpath(args.binary))
    found = {"matrix": args.matrix, "round_trips_ms": full, "names": names}
    try:
        print(f"round trips, ms, `{args.matrix}`: " + "; ".join(f"{name} {row}" for name, row in zip(names, full)))
        for case in cases:
            ring.lead(LEADER)
            if case == "healthy":
                found[case] = healthy(ring, names, full, args.seconds)
            else:
                # The farthest go first; "leader" is the leader's own region.
                cut = {"one": [6], "leader": [LEADER], "three": [5, 7, 6], "four": [3, 5, 7, 6]}[case]
                found[case] = cut_off(ring, names, cut, args.seconds)
    finally:
        ring.end()
        world.end()
        shutil.rmtree(args.dir, ignore_errors=True)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(found, f, indent=1)


if __name__ == "__main__":
    main()
