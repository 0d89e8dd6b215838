// One run of a program: starts it, reads its output to the end, waits for it. Writes the
// output to `output` and returns its length, or -1 if anything failed.
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static pid_t start(char **command, int output) {
    pid_t child;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, output, 1);
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    int error = posix_spawn(&child, command[0], &actions, 0, command, environ);
    posix_spawn_file_actions_destroy(&actions);
    return error ? -1 : child;
}

static ssize_t run_once(char **command, char *output, size_t room) {
    size_t length = 0;
    ssize_t got;
    int pipe[2], status = -1;
    if (pipe2(pipe, O_CLOEXEC)) return -1;
    pid_t child = start(command, pipe[1]);
    close(pipe[1]);
    while ((got = read(pipe[0], output + length, room - length)) > 0) length += got;
    close(pipe[0]);
    if (child < 0 || waitpid(child, &status, 0) != child || status) return -1;
    return length;
}
