// What no server can go below: one run after the other. No HTTP, no key, no deadline.
//
// Usage: floor SECONDS CLIENTS EXPECTED PROGRAM ARGUMENT...
// Its environment is the program's.
#include "once.h"
#include "clients.h"
#include <string.h>

static char **command;
static const char *expected;

static int try_once(void) {
    char output[4096] = "";
    return run_once(command, output, sizeof output - 1) >= 0 && strstr(output, expected) != 0;
}

int main(int argc, char **argv) {
    if (argc < 5) return 2;
    seconds = atof(argv[1]);
    expected = argv[3];
    command = argv + 4;
    return run_clients(atoi(argv[2]));
}
