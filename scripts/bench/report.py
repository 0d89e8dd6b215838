"""Turns the figures into tables, and says which goals are reached."""

from statistics import median

BASELINE, BASELINE_HTTP = "baseline", "baseline over HTTP"
OURS, IMAGE = "ipmi-sidecar", "ipmi-sidecar, image"
GUNICORN, WEBHOOK = "Gunicorn", "webhook"
KB = 1024 / 1000  # a KiB


class Figures:
    def __init__(self, result):
        self.result = result
        self.figures = {tuple(key.split("|")): values for key, values in result["figures"].items()}
        self.peers = list(result["notes"]["peers"])

    def of(self, work, clients, peer, name):
        """The values of all rounds, without those in which the peer answered nothing."""
        return [value for value in self.rounds(work, clients, peer, name) if value is not None]

    def rounds(self, work, clients, peer, name):
        return self.figures.get((work, str(clients), peer, name), [])

    def ratios(self, one, other):
        """The ratio of two figures in each round."""
        pairs = zip(self.rounds(*one), self.rounds(*other), strict=False)
        return [own / theirs for own, theirs in pairs if own and theirs]


def spread(values, digits=3):
    """Median [minimum–maximum]."""
    if not values:
        return "–"
    middle, least, most = median(values), min(values), max(values)
    if least == most:
        return number(middle, digits)
    return f"{number(middle, digits)} [{number(least, digits)}–{number(most, digits)}]"


def number(value, digits=3):
    """Three significant digits, and always all digits before the decimal point."""
    if value == int(value) and abs(value) < 1e5 or abs(value) >= 100:
        return f"{value:,.0f}"
    decimals = max(0, digits - len(f"{int(abs(value))}".lstrip("0")) - (1 if abs(value) < 0.1 else 0))
    return f"{value:.{min(decimals, 2 if abs(value) >= 0.1 else 3)}f}"


def table(heads, rows):
    widths = [max(len(str(row[at])) for row in [heads, *rows]) for at in range(len(heads))]
    lines = [heads, ["-" * width for width in widths], *rows]
    return "".join("| " + " | ".join(str(cell).ljust(width) for cell, width in zip(line, widths, strict=True)) + " |\n" for line in lines)


# --- Tables -----------------------------------------------------------------------


def requests(figures, work, clients):
    rows = []
    for peer in [BASELINE, BASELINE_HTTP, *figures.peers]:
        rate = figures.of(work, clients, peer, "rate")
        if not rate:
            continue
        failed = sum(figures.of(work, clients, peer, "failed"))
        rows.append([
            peer,
            spread(rate),
            spread([value / 1e3 for value in figures.of(work, clients, peer, "p50")]),
            spread([value / 1e3 for value in figures.of(work, clients, peer, "p99")]),
            spread([value / 1e3 for value in figures.of(work, clients, peer, "cpu")]),
            spread(figures.ratios((work, clients, peer, "cpu"), (work, clients, OURS, "cpu"))),
            number(max(figures.of(work, clients, peer, "at_once"), default=0)) if "50 ms" in work else "–",
            number(failed),
        ])
    heads = ["", "requests/s", "p50, ms", "p99, ms", "CPU a request, ms", "CPU / ours", "at once", "failed"]
    return table(heads, rows)


def several(figures):
    """Eight servers behind one sidecar, beside one, and beside eight hooks of webhook."""
    work = "several 50 ms"
    one = (work, 8, f"{OURS}, 1 server", "rate")
    rows = []
    for (name, clients, peer, kind) in figures.figures:
        if (name, kind) != (work, "rate"):
            continue
        rows.append([
            peer,
            clients,
            spread(figures.of(work, clients, peer, "rate")),
            spread(figures.ratios((work, clients, peer, "rate"), one)),
            spread([value / 1e3 for value in figures.of(work, clients, peer, "p50")]),
            spread([value / 1e3 for value in figures.of(work, clients, peer, "p99")]),
            spread([value / 1e3 for value in figures.of(work, clients, peer, "cpu")]),
            number(max(figures.of(work, clients, peer, "at_once"), default=0)),
            number(sum(figures.of(work, clients, peer, "failed"))),
        ])
    heads = ["", "clients", "requests/s", "rate / one server's", "p50, ms", "p99, ms", "CPU a request, ms", "at once", "failed"]
    memory = []
    for count in (1, 4, 16):
        peer = f"{OURS}, {count} server{'s' * (count > 1)}"
        idle = spread([value * KB for value in figures.of("idle", 0, peer, "pss")])
        more = spread(figures.ratios(("idle", 0, peer, "pss"), ("idle", 0, f"{OURS}, 1 server", "pss")))
        memory.append([peer, idle, more, spread(figures.of("idle", 0, peer, "threads"))])
    heads_of_memory = ["", "idle PSS, kB", "PSS / one server's", "threads"]
    return table(heads, rows) + "\n" + table(heads_of_memory, memory)


def resources(figures):
    rows = []
    for peer in [*figures.peers, BASELINE_HTTP]:
        rows.append([
            peer,
            spread(figures.of("start", 0, peer, "ms")),
            spread([value * KB for value in figures.of("idle", 0, peer, "pss")]),
            spread([value * KB for value in figures.of("loaded", 0, peer, "pss")]),
            spread(figures.of("idle", 0, peer, "processes")),
            spread(figures.of("idle", 0, peer, "threads")),
            spread([value / 1e6 for value in figures.of("disk", 0, peer, "bytes")]),
            stuck(figures, peer),
            instructions(figures, peer),
        ])
    heads = ["", "start, ms", "idle PSS, kB", "loaded PSS, kB", "processes", "threads", "on disk, MB", "worst /health with 32 stuck, ms", "instructions a change"]
    rows.append([BASELINE, *["–"] * 7, instructions(figures, BASELINE)])
    return table(heads, rows)


def stuck(figures, peer):
    if any(figures.of("stuck", 32, peer, "failed")):
        return "**silent**"
    return spread([value / 1e3 for value in figures.of("stuck", 32, peer, "worst")])


def instructions(figures, peer):
    each = figures.of("instructions", 1, peer, "each")
    return f"{each[0]:,.0f}" if each else "–"


def attacks(figures):
    names = list(dict.fromkeys(key.split("|")[0] for key in figures.result["attacks"]))
    rows = []
    for name in names:
        outcomes = [figures.result["attacks"][f"{name}|{peer}"] for peer in figures.peers]
        rows.append([name, *map(outcome, outcomes)])
    rows.append(["survived", *(f"{survived(figures, peer)} of {len(names)}" for peer in figures.peers)])
    return table(["", *figures.peers], rows)


def outcome(found):
    memory = f"{number(found['pss'] * KB / 1e3)} MB"
    if found["answered"] == found["asked"]:
        return f"{number(found['worst'])} ms, {memory}"
    return f"**silent**, {memory}"


def survived(figures, peer):
    outcomes = [found for key, found in figures.result["attacks"].items() if key.split("|")[1] == peer]
    return sum(found["answered"] == found["asked"] for found in outcomes)


# --- Goals --------------------------------------------------------------------------


def goals(figures):
    """Each goal: its text, the measured figure, and True if it is reached; None if it was not measured."""
    ours = [peer for peer in (OURS, IMAGE) if peer in figures.peers]

    def ratio(work, clients, name, own, other, at_most=None, at_least=None):
        values = figures.ratios((work, clients, own, name), (work, clients, other, name))
        return spread(values), fits(values, at_most, at_least)

    def worst(values, limit, unit):
        return f"{number(max(values))} {unit}" if values else "–", max(values) < limit if values else None

    def fits(values, at_most, at_least):
        if not values:
            return None
        return median(values) <= at_most if at_most is not None else median(values) >= at_least

    change, status, slow = "change", "status instant", "status 50 ms"
    yield "change, instant stub, 1 client: CPU at most 1.35 × the baseline's", *ratio(change, 1, "cpu", OURS, BASELINE, at_most=1.35)
    yield "change, instant stub, 1 client: p50 at most 1.3 × the baseline's", *ratio(change, 1, "p50", OURS, BASELINE, at_most=1.3)
    alone = figures.ratios((status, 4, OURS, "rate"), (status, 1, BASELINE, "rate"))
    yield "status, instant stub, 4 clients: at least the rate of one baseline client", spread(alone), fits(alone, None, 1)
    yield "status, instant stub, 4 clients: at least the rate of 4 baseline clients", *ratio(status, 4, "rate", OURS, BASELINE, at_least=1)
    yield "status, instant stub, 4 clients: at least 5 × Gunicorn's rate", *ratio(status, 4, "rate", OURS, GUNICORN, at_least=5)
    yield "status, 50 ms, 32 clients: at least the rate of webhook", *ratio(slow, 32, "rate", OURS, WEBHOOK, at_least=1)
    at_once = [most for peer in ours for work in (slow, "stuck") for most in figures.of(work, 32, peer, "at_once")]
    yield "at most 2 ipmitool at once", *worst(at_once, 3, "at once")
    image = ("status the image's", 1, IMAGE, "cpu")
    values = figures.ratios(image, ("status Debian's", 1, GUNICORN, "cpu"))
    yield "status, real ipmitool: the image takes at most 1/3 of the CPU of Gunicorn with Debian's", spread(values), fits(values, 1 / 3, None)
    limit = "status, real ipmitool, baseline: the image's takes at most 0.45 × the"
    for name, what in {"cpu": "CPU", "p50": "p50"}.items():
        values = figures.ratios(("status the image's", 1, BASELINE, name), ("status Debian's", 1, BASELINE, name))
        yield f"{limit} {what} of Debian's", spread(values), fits(values, 0.45, None)
    stuck = [value / 1e3 for peer in ours for value in figures.of("stuck", 32, peer, "worst")]
    yield "/health while 32 commands are stuck: worst under 5 ms", *worst(stuck, 5, "ms")
    for peer, limit in zip((OURS, IMAGE), (1000, 1800), strict=True):
        idle = [value * KB for value in figures.of("idle", 0, peer, "pss")]
        yield f"idle PSS of {peer}: under {limit:,} kB", *worst(idle, limit, "kB")
    threads = [value for peer in ours for value in figures.of("idle", 0, peer, "threads")]
    yield "at most 4 threads", *worst(threads, 5, "threads")
    attacked = [found["pss"] * KB for key, found in figures.result["attacks"].items() if key.split("|")[1] in ours]
    yield "PSS under every attack: under 5,000 kB", *worst(attacked, 5000, "kB")
    start = figures.of("start", 0, OURS, "ms")
    yield "start to first healthy answer: under 10 ms", spread(start), fits(start, 10, None)
    yield "start to first healthy answer: 50 times as fast as Gunicorn", *ratio("start", 0, "ms", GUNICORN, OURS, at_least=50)
    counts = {peer: survived(figures, peer) for peer in figures.peers}
    total = len(figures.result["attacks"]) // len(figures.peers)
    best = max(counts.values())
    yield "survives all attacks, and at least as many as any other server", f"{counts[OURS]} of {total}", counts[OURS] == total == best


def controls(figures):
    """Figures that show how much a missed goal could gain."""

    def ratio(own, other, name, work="change", clients=1):
        return spread(figures.ratios((work, clients, own, name), (work, clients, other, name)))

    for own, other in ((BASELINE_HTTP, BASELINE), (OURS, BASELINE_HTTP)):
        for name, what in {"cpu": "CPU", "p50": "p50"}.items():
            yield f"change, instant stub, 1 client: {what} of {own} / {other}", ratio(own, other, name)
    yield f"start to first healthy answer: {OURS} / {BASELINE_HTTP}", ratio(OURS, BASELINE_HTTP, "ms", "start", 0)
    rounds = [
        figures.rounds("status instant", 1, BASELINE, "p50"),
        figures.rounds("health", 4, OURS, "rate"),
        figures.rounds("status instant", 4, GUNICORN, "rate"),
    ]
    most = [4 / (run / 1e6 + 4 / rate) / theirs for run, rate, theirs in zip(*rounds, strict=True)]
    yield "status, instant stub, 4 clients: the rate if a status took one baseline run and 4 of our /health / Gunicorn's", spread(most)
    yield f"idle PSS of {BASELINE_HTTP}", f"{spread([value * KB for value in figures.of('idle', 0, BASELINE_HTTP, 'pss')])} kB"


def text(result):
    figures = Figures(result)
    notes = result["notes"]
    parts = [
        f"{notes['machine']}; {notes['rounds']} rounds{', --quick' if notes['quick'] else ''}, {result['seconds']:.0f} s, "
        f"on {notes['date']}, load average {notes['load']} before.\n{notes['versions']}.\n"
        f"Each figure is the median of the rounds [minimum–maximum]. Each ratio is of two figures of one round. CPU time by {notes['cpu']}.\n",
        "\n".join(f"- {name}: {note}" for name, note in (notes["peers"] | notes["baselines"]).items()) + "\n",
    ]
    works = dict.fromkeys((work, int(clients)) for work, clients, _, name in figures.figures
                          if name == "rate" and not work.startswith("several"))
    for work, clients in works:
        parts.append(f"### {work}, {clients} client{'s' * (clients > 1)}\n\n{requests(figures, work, clients)}")
    parts.append(f"### Several servers, status 50 ms\n\n{several(figures)}")
    parts.append(f"### Start, memory and size\n\n{resources(figures)}")
    if missing := notes.get("no instructions"):
        parts[-1] += f"\nThese gave no right answer under callgrind: {', '.join(missing)}.\n"
    parts.append(f"### Attacks: the worst /health and the largest PSS\n\n{attacks(figures)}")
    verdicts = {True: "reached", False: "**missed**", None: "not measured"}
    rows = [[goal, measured, verdicts[reached]] for goal, measured, reached in goals(figures)]
    parts.append(f"### Goals\n\n{table(['goal', 'measured', ''], rows)}")
    parts.append(f"### Beside the goals\n\n{table(['figure', 'measured'], [*controls(figures)])}")
    return "\n".join(parts)
