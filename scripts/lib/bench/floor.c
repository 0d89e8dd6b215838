// What no server can go below: starts the program, reads its pipe to the end, waits.
// No HTTP, no key, no deadline.
//
// Usage: floor SECONDS CLIENTS EXPECTED PROGRAM ARGUMENT...
// Its environment is the program's.
#define _GNU_SOURCE
#include "clients.h"
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static char **command;
static const char *expected;
static posix_spawnattr_t attributes;

static pid_t start(int output) {
    pid_t child;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, output, 1);
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    int error = posix_spawn(&child, command[0], &actions, &attributes, command, environ);
    posix_spawn_file_actions_destroy(&actions);
    return error ? -1 : child;
}

static int try_once(void) {
    char output[4096] = "";
    size_t length = 0;
    ssize_t got;
    int pipe[2], status = -1;
    if (pipe2(pipe, O_CLOEXEC)) return 0;
    pid_t child = start(pipe[1]);
    close(pipe[1]);
    while ((got = read(pipe[0], output + length, sizeof output - 1 - length)) > 0) length += got;
    close(pipe[0]);
    if (child < 0 || waitpid(child, &status, 0) != child) return 0;
    return status == 0 && strstr(output, expected) != 0;
}

int main(int argc, char **argv) {
    if (argc < 5) return 2;
    seconds = atof(argv[1]);
    expected = argv[3];
    command = argv + 4;
    posix_spawnattr_init(&attributes);
    return run_clients(atoi(argv[2]));
}
