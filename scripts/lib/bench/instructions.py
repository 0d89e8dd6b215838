"""User instructions that a change costs, `ipmitool` itself left out, as callgrind counts them."""

# Two runs, so that the start cancels out.
SHORT, LONG = 1.0, 4.0


def count(bench, floor, change):
    folder = bench.scratch / "callgrind"
    folder.mkdir()
    peers = bench.peers[:1] if bench.plan.quick else bench.peers
    for peer in [*peers, None]:
        name = peer.name if peer else floor
        tries = [once(bench, peer, change, folder, seconds) for seconds in (SHORT, LONG)]
        if None in tries or tries[1][1] <= tries[0][1]:
            bench.result["notes"].setdefault("no instructions", []).append(name)
            continue
        (few, some), (more, all_) = tries
        bench.put("instructions", 1, name, each=(more - few) / (all_ - some))


def once(bench, peer, change, folder, seconds):
    """Instructions of all processes, and good answers; None if it does not run under valgrind."""
    for file in folder.iterdir():
        file.unlink()
    valgrind = ["valgrind", "--quiet", "--tool=callgrind", "--trace-children=yes", "--trace-children-skip=*ipmitool*"]
    valgrind.append(f"--callgrind-out-file={folder}/%p")
    if peer:
        port, took = bench.start(peer, wrapper=valgrind)
        if took is None:
            bench.group.end()
            return None
        request = (change[0], peer.prefix + change[1], change[2])
        line = bench.load(seconds, 1, port, request).communicate()[0]
    else:
        line = bench.start_floor(1, seconds, change, "instant", wrapper=valgrind).communicate()[0]
    bench.group.end()
    files = [file.read_text(errors="replace") for file in folder.iterdir()]
    totals = [line.split()[1] for text in files for line in text.splitlines() if line.startswith("totals:")]
    return sum(map(int, totals)), int(line.split()[0])
