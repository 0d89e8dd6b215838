/* The ipmitool of scripts/soak. It keeps the power state of a server, behaves at random by a seed, and notes
 * in a journal what it did. Its files lie beside it: "seed", "state" (runs and the power) and "journal".
 *
 * A line of the journal: nanoseconds of CLOCK_MONOTONIC, number of the run, process, parent, event and
 * details. A lock orders the lines, and the power state changes under the same lock. So the order of the
 * lines is the order of events.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

/* Longer than any REQUEST_TIMEOUT of the soak. A run that outlives its sidecar ends by itself. */
#define HANG_MS 20000
/* More than the 64 KiB that the sidecar keeps. */
#define FLOOD 200000

static const struct change {
    const char *words, *success, *failure;
    /* 1 and 0 set the power, -1 leaves it. */
    int power;
} CHANGES[] = {
    {"power on", "Chassis Power Control: Up/On", "Set Chassis Power Control to Up/On failed", 1},
    {"power soft", "Chassis Power Control: Soft", "Set Chassis Power Control to Soft failed", 0},
    {"power off", "Chassis Power Control: Down/Off", "Set Chassis Power Control to Down/Off failed", 0},
    {"power cycle", "Chassis Power Control: Cycle", "Set Chassis Power Control to Cycle failed", 1},
    {"power reset", "Chassis Power Control: Reset", "Set Chassis Power Control to Reset failed", -1},
    {"chassis identify force", "Chassis identify interval: indefinite", "Set Chassis Identify failed", -1},
    {"chassis identify 0", "Chassis identify interval: off", "Set Chassis Identify failed", -1},
};

/* Of 1000 runs, how many behave so. */
struct share {
    const char *behaviour;
    int of_1000;
};

static const struct share CHANGE_SHARES[] = {
    {"at_once", 463},     {"quick", 250},    {"slow", 30},       {"hang_before", 10}, {"hang_after", 7},
    {"deaf", 5},          {"declined", 50},  {"busy", 30},       {"wrong", 30},       {"flood_behind", 10},
    {"flood_before", 10}, {"lost_ack", 45},  {"no_session", 60}, {NULL, 0},
};

static const struct share READ_SHARES[] = {
    {"at_once", 340},     {"quick", 400},   {"slow", 140},      {"hang_before", 5}, {"hang_after", 5},
    {"deaf", 5},          {"declined", 5},  {"busy", 15},       {"wrong", 20},      {"flood_behind", 10},
    {"flood_before", 10}, {"lost_ack", 10}, {"no_session", 35}, {NULL, 0},
};

static volatile sig_atomic_t interrupted;
static int folder;
static long run, parent;
static uint64_t random_state;

static void on_interrupt(int signal) {
    (void)signal;
    interrupted = 1;
}

static void give_up(const char *what) {
    fprintf(stderr, "the ipmitool of the soak: %s: %s\n", what, strerror(errno));
    exit(70);
}

/* splitmix64 */
static uint64_t random_below(uint64_t limit) {
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (z ^ (z >> 31)) % limit;
}

static int open_own(const char *name, int flags) {
    int file = openat(folder, name, flags | O_CLOEXEC, 0600);
    if (file < 0) give_up(name);
    return file;
}

static int lock(void) {
    int file = open_own("state", O_RDWR | O_CREAT);
    while (flock(file, LOCK_EX) != 0)
        if (errno != EINTR) give_up("locking the state");
    return file;
}

static void get_state(int file, long *runs, int *power) {
    char text[64] = "";
    *runs = 0, *power = 0;
    if (pread(file, text, sizeof text - 1, 0) < 0) give_up("reading the state");
    sscanf(text, "%ld %d", runs, power);
}

static void set_state(int file, long runs, int power) {
    char text[64];
    int length = snprintf(text, sizeof text, "%-20ld %d\n", runs, power);
    if (pwrite(file, text, length, 0) != length) give_up("writing the state");
}

/* Call it under the lock. */
static void note_locked(const char *format, ...) {
    char line[512], event[256];
    struct timespec now;
    va_list words;
    va_start(words, format);
    vsnprintf(event, sizeof event, format, words);
    va_end(words);
    clock_gettime(CLOCK_MONOTONIC, &now);
    long long time = now.tv_sec * 1000000000LL + now.tv_nsec;
    int length = snprintf(line, sizeof line, "%lld %ld %d %ld %s\n", time, run, getpid(), parent, event);
    int file = open_own("journal", O_WRONLY | O_CREAT | O_APPEND);
    if (write(file, line, length) != length) give_up("writing the journal");
    close(file);
}

static void note(const char *event) {
    int file = lock();
    note_locked("%s", event);
    close(file);
}

static void end(const char *how, int code) {
    fflush(NULL);
    char event[64];
    snprintf(event, sizeof event, "end %s", how);
    note(event);
    _exit(code);
}

static void nap(long ms) {
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};
    while (!interrupted && nanosleep(&left, &left) != 0 && errno == EINTR) {}
    if (interrupted) end("interrupted", 1);
}

static void say(FILE *where, const char *line) {
    fprintf(where, "%s\n", line);
    fflush(where);
}

static void flood(void) {
    for (int length = 0; length < FLOOD; length += 40) fprintf(stdout, "%039d\n", length);
    fflush(stdout);
}

static int is(const char *word, const char *other) {
    return strcmp(word, other) == 0;
}

/* Carries the change out, or reads the power. */
static int act(const struct change *change) {
    long runs;
    int power, file = lock();
    get_state(file, &runs, &power);
    if (change) {
        if (change->power >= 0) power = change->power;
        set_state(file, runs, power);
        note_locked("effect %s", power ? "on" : "off");
    } else {
        note_locked("read %s", power ? "on" : "off");
    }
    close(file);
    return power;
}

/* Takes less than so many milliseconds. It acts at any moment of them. */
static void answer(const struct change *change, long most) {
    long time = random_below(most), before = random_below(time + 1);
    nap(before);
    int power = act(change);
    nap(time - before);
    note("prints");
    say(stdout, change ? change->success : power ? "Chassis Power is on" : "Chassis Power is off");
    note("printed");
}

static void behave(const struct change *change, const char *how) {
    say(stderr, "Loading IANA PEN Registry...");
    if (is(how, "hang_before")) {
        nap(HANG_MS);
        end("tired", 1);
    }
    if (is(how, "no_session")) {
        nap(random_below(50));
        say(stderr, "Error: Unable to establish IPMI v2 / RMCP+ session");
        end("done", 1);
    }
    say(stderr, "Running Get VSO Capabilities my_addr 0x20, transit 0, target 0");
    say(stderr, "Discovered IPMB address 0x0");
    if (is(how, "declined") || is(how, "busy")) {
        const char *reason = is(how, "busy") ? "Node busy" : "Command not supported in present state";
        fprintf(stderr, "%s: %s\n", change ? change->failure : "Get Chassis Power Status failed", reason);
        end("done", 1);
    }
    if (is(how, "lost_ack")) {
        if (random_below(2)) act(change);
        nap(random_below(500));
        const char *what = change ? "set Chassis Power Control to Up/On" : "get Chassis Power Status";
        fprintf(stderr, "Unable to %s\n", what);
        end("done", 1);
    }
    if (is(how, "hang_after") || is(how, "deaf")) {
        if (is(how, "deaf")) signal(SIGINT, SIG_IGN);
        if (random_below(2)) act(change);
        nap(HANG_MS);
        end("tired", 1);
    }
    if (is(how, "wrong")) {
        act(change);
        say(stdout, random_below(2) ? "Chassis Power Control: Sideways" : "Chassis Power is onward");
        end("done", 0);
    }
    if (is(how, "flood_before")) {
        flood();
        answer(change, 50);
    } else if (is(how, "flood_behind")) {
        answer(change, 50);
        flood();
    } else {
        answer(change, is(how, "slow") ? 3000 : is(how, "quick") ? 200 : 1);
    }
    end("done", 0);
}

int main(int count, char **words) {
    if (count == 2 && is(words[1], "-V")) {
        puts("ipmitool version 1.8.19");
        return 0;
    }
    parent = getppid();
    signal(SIGPIPE, SIG_IGN);
    sigaction(SIGINT, &(struct sigaction){.sa_handler = on_interrupt}, NULL);

    char *slash = strrchr(words[0], '/');
    if (slash) *slash = '\0';
    folder = open(slash ? words[0] : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) give_up("opening the folder");

    char command[128] = "";
    for (int index = 1; index < count; index++) {
        if (!*command && !is(words[index], "power") && !is(words[index], "chassis")) continue;
        if (strlen(command) + strlen(words[index]) + 2 > sizeof command) give_up("reading the arguments");
        if (*command) strcat(command, " ");
        strcat(command, words[index]);
    }
    const struct change *change = NULL;
    for (size_t index = 0; index < sizeof CHANGES / sizeof *CHANGES; index++)
        if (is(command, CHANGES[index].words)) change = &CHANGES[index];

    char seed[32] = "";
    int file = open_own("seed", O_RDONLY);
    if (read(file, seed, sizeof seed - 1) < 0) give_up("reading the seed");
    close(file);

    int power;
    file = lock();
    get_state(file, &run, &power);
    run++;
    random_state = strtoull(seed, NULL, 10) * 1000003 + run;
    int dice = random_below(1000);
    const struct share *share = change ? CHANGE_SHARES : READ_SHARES;
    while (share[1].behaviour && dice >= share->of_1000) dice -= share++->of_1000;
    set_state(file, run, power);
    note_locked("begin %s: %s", share->behaviour, command);
    close(file);
    if (!change && !is(command, "power status")) {
        say(stderr, "Invalid command");
        end("unknown", 1);
    }
    behave(change, share->behaviour);
}
