"""Counts the instructions in user space for one change with callgrind, without those of `ipmitool`."""

# Seconds. The difference of two runs does not contain the start.
SHORT, LONG = 1.0, 3.0

GRACE = 30  # seconds for callgrind to write its result


def count(bench, baseline, change):
    folder = bench.scratch / "callgrind"
    folder.mkdir()
    for peer in [*bench.peers, bench.control, None]:
        name = peer.name if peer else baseline
        short = once(bench, peer, change, folder, SHORT)
        long = short and once(bench, peer, change, folder, LONG)
        if long and long[1] > short[1]:
            bench.put("instructions", 1, name, each=(long[0] - short[0]) / (long[1] - short[1]))
        else:
            bench.result["notes"].setdefault("no instructions", []).append(name)


def once(bench, peer, change, folder, seconds):
    """The instructions of all processes, and the number of right answers. None if the peer does not run under valgrind."""
    for file in folder.iterdir():
        file.unlink()
    installed = bench.folder / "valgrind/usr"
    valgrind = [installed / "bin/valgrind.bin", "--quiet", "--tool=callgrind", f"--callgrind-out-file={folder}/%p"]
    valgrind += ["--trace-children=yes", "--trace-children-skip=*ipmitool*"]
    library = {"VALGRIND_LIB": str(installed / "libexec/valgrind")}
    if peer:
        port, took = bench.start(peer, wrapper=valgrind, **library)
        if took is None:
            bench.group.end()
            return None
        request = (change[0], peer.prefix + change[1], change[2])
        line = bench.load(seconds, 1, port, request).communicate()[0]
    else:
        line = bench.start_baseline(1, seconds, change, "instant", wrapper=valgrind, **library).communicate()[0]
    bench.group.end(GRACE)
    files = [file.read_text(errors="replace") for file in folder.iterdir()]
    totals = [line.split()[1] for text in files for line in text.splitlines() if line.startswith("totals:")]
    return sum(map(int, totals)), int(line.split()[0])
