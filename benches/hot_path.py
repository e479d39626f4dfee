#!/usr/bin/env python3
"""Which lines a steady put runs: a ring built with coverage, a load of puts, and the lines that ran again and again.

    rustup component add llvm-tools
    benches/hot_path.py [--seconds 15] [--dir DIR] [--files]

A line counts when it ran at least 500 times on leader and followers together: what only a start, an election or a heartbeat runs does
not come so far. Lines of code only: no empty ones, no comments, no tests, no declarations (which never run). Needs Python 3.9 and the
compiler's own llvm-tools; builds into target/coverage. Ends every process it starts.
"""
import argparse, json, os, shutil, signal, subprocess, sys, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RUNS_MIN = 500


def room_of(path):
    if path.startswith("shards/io/glommio/"):
        return "glommio, our copy"
    if path == "wire/schema_generated.rs":
        return "flatc's code"
    if path.startswith("wire/"):
        return "wire"
    if path.startswith("shards/io/"):
        return "shards/io: channels, disk, connections"
    folder = path.split("/")[1]
    return "shards/" + folder if "/" in path[len("shards/"):] else "shards: connection, admission, batcher, write, the loops"


def code_lines(path):
    text = open(path).read()
    tests = text.find("#[cfg(test)]\nmod tests {")
    lines = text[:tests if tests >= 0 else len(text)].split("\n")
    return {at for at, line in enumerate(lines, 1) if line.strip() and not line.strip().startswith("//")}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=int, default=15)
    arguments.add_argument("--dir", default="/var/tmp/ringbeam-hot-path")
    arguments.add_argument("--files", action="store_true", help="a line for each file, too")
    options = arguments.parse_args()
    sysroot = subprocess.check_output(["rustc", "--print", "sysroot"], text=True).strip()
    host = [line.split()[1] for line in subprocess.check_output(["rustc", "-vV"], text=True).split("\n") if line.startswith("host:")][0]
    tools = os.path.join(sysroot, "lib", "rustlib", host, "bin")
    if not os.path.exists(os.path.join(tools, "llvm-profdata")):
        sys.exit(f"{tools} has no llvm-profdata: rustup component add llvm-tools")
    target = os.path.join(ROOT, "target", "coverage")
    subprocess.check_call(["cargo", "build", "--target-dir", target], cwd=ROOT, env={**os.environ, "RUSTFLAGS": "-C instrument-coverage"})
    binary = os.path.join(target, "debug", "ringbeam")

    shutil.rmtree(options.dir, ignore_errors=True)
    os.makedirs(options.dir)
    about = os.path.join(options.dir, "ring.json")
    environment = {**os.environ, "LLVM_PROFILE_FILE": os.path.join(options.dir, "node-%p.profraw")}
    ring = subprocess.Popen([binary, "dev", "--idle", "--dir", os.path.join(options.dir, "ring"), "--json", about], env=environment,
                            stdout=subprocess.DEVNULL)
    try:
        deadline = time.time() + 60
        while not (os.path.exists(about) and os.path.getsize(about)):
            if time.time() > deadline:
                sys.exit("the ring was never ready")
            time.sleep(0.2)
        with open(about) as f:
            nodes = json.load(f)
        bench = [binary, "bench", "--endpoints", ",".join(nodes["endpoints"]), "--clients", "4", "--inflight", "16",
                 "--seconds", str(options.seconds)]
        subprocess.check_call(bench, env={**os.environ, "LLVM_PROFILE_FILE": "/dev/null"}, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    finally:
        ring.send_signal(signal.SIGTERM)
        try:
            ring.wait(60)
        except subprocess.TimeoutExpired:
            ring.kill()
            raise
    pids = {node["pid"] for node in nodes["nodes"]}
    profiles = [os.path.join(options.dir, f"node-{pid}.profraw") for pid in pids]
    merged = os.path.join(options.dir, "all.profdata")
    subprocess.check_call([os.path.join(tools, "llvm-profdata"), "merge", "-sparse", "-o", merged] + profiles)
    report = subprocess.check_output([os.path.join(tools, "llvm-cov"), "export", binary, f"-instr-profile={merged}", "-format=lcov",
                                      "--sources", os.path.join(ROOT, "shards"), os.path.join(ROOT, "wire")],
                                     text=True, stderr=subprocess.DEVNULL)
    runs, path = {}, None
    for line in report.split("\n"):
        if line.startswith("SF:"):
            path = os.path.relpath(line[3:], ROOT)
        elif line.startswith("DA:"):
            at, count = line[3:].split(",")[:2]
            here = runs.setdefault(path, {})
            here[int(at)] = max(here.get(int(at), 0), int(count))
    rooms, files = {}, []
    for path, lines in runs.items():
        if "/sdk/" in path:
            continue
        code = code_lines(os.path.join(ROOT, path))
        ran = sum(1 for at, count in lines.items() if count >= RUNS_MIN and at in code)
        if ran:
            rooms[room_of(path)] = rooms.get(room_of(path), 0) + ran
            files.append((ran, len(code), path))
    if options.files:
        for ran, code, path in sorted(files, reverse=True):
            print(f"{ran:6} of {code:5}  {path}")
    theirs = ("glommio, our copy", "flatc's code")
    for room, ran in sorted(rooms.items(), key=lambda room: -room[1]):
        print(f"{ran:6}  {room}")
    io = "shards/io: channels, disk, connections"
    ours = sum(ran for room, ran in rooms.items() if room not in theirs)
    print(f"{ours:6}  lines of ours that a steady put runs, {ours - rooms.get(io, 0)} of them inside the seam")


if __name__ == "__main__":
    main()
