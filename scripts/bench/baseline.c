// The least work that any server must do for a request: start ipmitool, read its output, wait
// for its end. No HTTP, no key, no deadline. With several clients, each is a thread.
//
// Usage: baseline SECONDS CLIENTS EXPECTED PROGRAM ARGUMENT...
// PROGRAM inherits the environment.
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
