// HTTP clients that open a new connection for each request.
//
// Usage: load SECONDS CLIENTS PAUSE PORT METHOD PATH[,PATH...] KEY EXPECTED
// PAUSE: seconds to wait after each request. PATH: of several, each client asks for one, in turns. EXPECTED: a part of
// every right reply.
#define _GNU_SOURCE
#include "clients.h"
#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static struct sockaddr_in server = {.sin_family = AF_INET};
enum { MOST_PATHS = 16 };
static char requests[MOST_PATHS][1024];
static unsigned paths;
static const char *expected;

static int exchange(int connection, char *reply, size_t room) {
    size_t length = 0;
    ssize_t got;
    if (connect(connection, (struct sockaddr *)&server, sizeof server)) return 0;
    const char *request = requests[number % paths];
    if (send(connection, request, strlen(request), MSG_NOSIGNAL) < 0) return 0;
    while ((got = recv(connection, reply + length, room - length, 0)) > 0) length += got;
    reply[length] = 0;
    return got == 0;
}

static int try_once(void) {
    static const struct timeval timeout = {.tv_sec = 10};
    char reply[4096] = "";
    int connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection < 0) return 0;
    setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    int whole = exchange(connection, reply, sizeof reply - 1);
    close(connection);
    return whole && !strncmp(reply, "HTTP/1.", 7) && !strncmp(reply + 8, " 200", 4) && strstr(reply, expected);
}

int main(int argc, char **argv) {
    if (argc != 9) return 2;
    seconds = atof(argv[1]);
    pause_after = atof(argv[3]);
    server.sin_port = htons(atoi(argv[4]));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (char *path = strtok(argv[6], ","); path && paths < MOST_PATHS; path = strtok(0, ","))
        snprintf(requests[paths++], sizeof *requests,
                 "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: %s\r\nConnection: close\r\n%s\r\n", argv[5], path,
                 argv[7], strcmp(argv[5], "POST") ? "" : "Content-Length: 0\r\n");
    if (!paths) return 2;
    expected = argv[8];
    return run_clients(atoi(argv[2]));
}
