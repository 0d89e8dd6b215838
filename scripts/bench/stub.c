// Replaces ipmitool, and the chassis of the simulated BMC: prints the line that belongs to
// its last argument, and ends. Built with -DMILLISECONDS=N it takes N ms, and counts its
// runs in the file COUNTER: those that run now, the most at once, the total.
#include <string.h>
#include <unistd.h>

#if MILLISECONDS
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>

struct counter {
    atomic_int now, most, total;
};

static struct counter *begin(void) {
    int file = open(COUNTER, O_RDWR | O_CLOEXEC);
    struct counter *counter = mmap(0, sizeof *counter, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (counter == MAP_FAILED) _exit(2);
    int now = atomic_fetch_add(&counter->now, 1) + 1;
    int most = atomic_load(&counter->most);
    while (most < now && !atomic_compare_exchange_weak(&counter->most, &most, now)) {}
    atomic_fetch_add(&counter->total, 1);
    return counter;
}
#endif

static const char *const ANSWERS[][2] = {
    {"status", "Chassis Power is on\n"},
    {"on", "Chassis Power Control: Up/On\n"},
    {"off", "Chassis Power Control: Down/Off\n"},
    {"soft", "Chassis Power Control: Soft\n"},
    {"cycle", "Chassis Power Control: Cycle\n"},
    {"reset", "Chassis Power Control: Reset\n"},
    {"power", "power:1\n"}, // the simulated BMC asks its chassis this
    {"-V", "ipmitool version 1.8.19\n"}, // asked at the start
};

int main(int argc, char **argv) {
#if MILLISECONDS
    struct counter *counter = begin();
    nanosleep(&(struct timespec){MILLISECONDS / 1000, MILLISECONDS % 1000 * 1000000L}, 0);
    atomic_fetch_sub(&counter->now, 1);
#endif
    for (unsigned i = 0; i < sizeof ANSWERS / sizeof *ANSWERS; i++) {
        const char *line = ANSWERS[i][1];
        if (!strcmp(argv[argc - 1], ANSWERS[i][0])) return write(1, line, strlen(line)) < 0;
    }
    return 0;
}
